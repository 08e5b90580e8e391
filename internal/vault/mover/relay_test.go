package mover

import (
	"net"
	"net/http"
	"testing"

	"lifeboat.dev/lifeboat/internal/vault/blob"
	"lifeboat.dev/lifeboat/internal/vault/blob/blobtest"
)

// relayed returns store as a worker sees it, over a stream of its own.
func relayed(t *testing.T, store blob.Store) blob.Store {
	t.Helper()
	near, far := net.Pipe()
	c, d := newConn(near, near, near), newConn(far, far, far)
	server := &http.Server{Handler: Serve(store), Protocols: protocol(), HTTP2: http2(silence)}
	go func() { _ = server.Serve(listenOn(c)) }()
	t.Cleanup(func() {
		_ = server.Close()
		d.Close()
	})
	client, err := clientOver(t.Context(), d, silence)
	if err != nil {
		t.Fatal(err)
	}
	return &relayStore{client: client, location: store.Location()}
}

func TestRelayedStoreKeepsTheContract(t *testing.T) {
	t.Parallel()
	blobtest.Run(t, func(t *testing.T) blob.Store { return relayed(t, blob.NewMem()) },
		func(t *testing.T, s blob.Store) blob.Store { return s })
}
