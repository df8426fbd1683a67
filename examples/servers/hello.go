// A small HTTP server in Go that can be replaced under load.
//
//	go build hello.go
//	segue run --listen :8080 -- ./hello
//
// It takes its listening socket over, says READY=1, and at TERM accepts no more. Each kept connection
// then gets one more answer, with "Connection: close"; one on which no request comes within LINGER
// seconds is closed. LINGER=0 is Shutdown() alone, which closes idle connections at once and loses what is
// on its way.
package main

import (
	"context"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// The first socket of sd_listen_fds(3).
func inherited() net.Listener {
	if os.Getenv("LISTEN_PID") != strconv.Itoa(os.Getpid()) {
		log.Fatal("no socket is meant for me: start me by segue run --listen, without a wrapper")
	}
	file := os.NewFile(3, "listener")
	listener, err := net.FileListener(file)
	if err != nil {
		log.Fatal(err)
	}
	file.Close()
	return listener
}

// As sd_notify(3) does; net knows '@' for the abstract namespace.
func notify(text string) {
	path := os.Getenv("NOTIFY_SOCKET")
	if path == "" {
		return
	}
	to, err := net.Dial("unixgram", path)
	if err != nil {
		log.Fatal(err)
	}
	defer to.Close()
	io.WriteString(to, text)
}

func linger() time.Duration {
	seconds, err := strconv.ParseFloat(os.Getenv("LINGER"), 64)
	if err != nil {
		seconds = 5
	}
	return time.Duration(seconds * float64(time.Second))
}

func main() {
	var stopping atomic.Bool
	var open sync.WaitGroup

	http.HandleFunc("/hello", func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		if delay, err := time.ParseDuration(r.URL.Query().Get("delay")); err == nil {
			time.Sleep(delay)
		}
		w.Header().Set("Segue-Generation", os.Getenv("SEGUE_GENERATION"))
		if stopping.Load() {
			w.Header().Set("Connection", "close")
		}
		io.WriteString(w, "hello, world\n")
	})
	server := &http.Server{ConnState: func(_ net.Conn, state http.ConnState) {
		switch state {
		case http.StateNew:
			open.Add(1)
		case http.StateHijacked, http.StateClosed:
			open.Done()
		}
	}}
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM)
	listener := inherited()
	served := make(chan struct{})
	go func() {
		server.Serve(listener)
		close(served)
	}()
	notify("READY=1")
	<-stop

	if linger() == 0 {
		server.Shutdown(context.Background())
		return
	}
	// Shutdown() does not know of a connection that Serve() has just accepted. Serve() returns once its
	// listener is closed, and what it has accepted by then it has counted.
	listener.Close()
	<-served
	stopping.Store(true)
	closed := make(chan struct{})
	go func() {
		open.Wait()
		close(closed)
	}()
	select {
	case <-closed:
	case <-time.After(linger()):
	}
	server.Shutdown(context.Background())
}
