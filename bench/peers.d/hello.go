// The answer of both Go servers. A deployment writes the number of the version beside the program.
package main

import (
	"io"
	"log"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"
)

func handler() http.Handler {
	text, err := os.ReadFile("generation")
	if err != nil {
		log.Fatal(err)
	}
	generation, pid := strings.TrimSpace(string(text)), strconv.Itoa(os.Getpid())
	hello := func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		if r.URL.Path == "/slow" {
			time.Sleep(300 * time.Millisecond)
		}
		header := w.Header()
		header.Set("Content-Type", "text/plain")
		header.Set("Segue-Generation", generation)
		header.Set("Segue-Pid", pid)
		io.WriteString(w, "hello, world\n")
	}
	mux := http.NewServeMux()
	mux.HandleFunc("/hello", hello)
	mux.HandleFunc("/slow", hello)
	return mux
}
