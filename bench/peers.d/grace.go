// A server on github.com/facebookgo/grace, which does everything itself: gracehttp.Serve() is all that its
// readme and its demo have (SIGUSR2 starts the next version, which ends this one by SIGTERM). It stops by the
// rules of github.com/facebookgo/httpdown, at their defaults, for it offers none of its own.
package main

import (
	"flag"
	"log"
	"net/http"
	"os"

	"github.com/facebookgo/grace/gracehttp"
)

func main() {
	address := flag.String("listen", "127.0.0.1:8080", "address to listen on")
	flag.Parse()

	gracehttp.SetLogger(log.New(os.Stderr, "", log.LstdFlags))
	if err := gracehttp.Serve(&http.Server{Addr: *address, Handler: handler()}); err != nil {
		log.Fatal(err)
	}
}
