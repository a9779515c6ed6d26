// A private FerretDB node for tests: MongoDB's protocol over SQLite files.
package main

import (
	"context"
	"log"
	"os"

	"github.com/FerretDB/FerretDB/ferretdb"
)

// The arguments are the address to listen on, and the URL of the folder of the SQLite files: file:data/?_pragma=...
func main() {
	node, err := ferretdb.New(&ferretdb.Config{
		Listener:  ferretdb.ListenerConfig{TCP: os.Args[1]},
		Handler:   "sqlite",
		SQLiteURL: os.Args[2],
	})
	if err != nil {
		log.Fatal(err)
	}
	log.Fatal(node.Run(context.Background()))
}
