//go:build !unix

package restore

// newSlab gets room for documents.
func newSlab(_ *documents, size int) ([]byte, error) { return make([]byte, 0, size), nil }
