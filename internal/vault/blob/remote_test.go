package blob_test

import (
	"fmt"
	"sync/atomic"
	"testing"

	"lifeboat.dev/lifeboat/internal/vault/blob"
	"lifeboat.dev/lifeboat/internal/vault/blob/blobtest"
)

func open(t *testing.T, location, credentials string) blob.Store {
	t.Helper()
	s, err := blob.Open(t.Context(), location, blob.Options{CredentialsFile: credentials})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// contract runs the suite on a server, each case below a prefix of its own.
func contract(t *testing.T, server *blobtest.Server, bucket string) {
	var n atomic.Int32
	blobtest.Run(t, func(t *testing.T) blob.Store {
		return open(t, server.At(bucket, fmt.Sprintf("case-%d", n.Add(1))), server.CredentialsFile)
	}, func(t *testing.T, s blob.Store) blob.Store {
		return open(t, s.Location(), server.CredentialsFile)
	})
}
