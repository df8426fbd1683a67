// A server on github.com/cloudflare/tableflip. Its upgrade is that of the package's documentation:
// Upgrade() at SIGHUP, Listen() before Ready(), and after Exit() the Shutdown() of net/http with a
// deadline ("Make sure to set a deadline on exiting the process after upg.Exit() is closed", from
// Example_httpShutdown, http_example_test.go). UpgradeTimeout is its default of a minute unless the
// experiment with a version that hangs asks for less.
package main

import (
	"context"
	"flag"
	"log"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/cloudflare/tableflip"
)

func main() {
	address := flag.String("listen", "127.0.0.1:8080", "address to listen on")
	pidFile := flag.String("pid-file", "", "path to pid file")
	timeout := flag.Duration("upgrade-timeout", tableflip.DefaultUpgradeTimeout, "for a next version to be ready")
	flag.Parse()

	upg, err := tableflip.New(tableflip.Options{PIDFile: *pidFile, UpgradeTimeout: *timeout})
	if err != nil {
		log.Fatal(err)
	}
	defer upg.Stop()

	go func() {
		hup := make(chan os.Signal, 1)
		signal.Notify(hup, syscall.SIGHUP)
		for range hup {
			if err := upg.Upgrade(); err != nil {
				log.Println("upgrade failed:", err)
			}
		}
	}()

	listener, err := upg.Listen("tcp", *address)
	if err != nil {
		log.Fatal(err)
	}
	server := &http.Server{Handler: handler()}
	go func() {
		if err := server.Serve(listener); err != http.ErrServerClosed {
			log.Println("serve:", err)
		}
	}()
	if err := upg.Ready(); err != nil {
		log.Fatal(err)
	}
	<-upg.Exit()

	time.AfterFunc(30*time.Second, func() {
		log.Fatal("shutdown timed out")
	})
	server.Shutdown(context.Background())
}
