//go:build unix

package restore

import (
	"fmt"
	"runtime"
	"syscall"
)

// newSlab gets room outside the garbage collector's heap, which would leave as much again free for garbage.
// It is given back when its owner is not used any more.
func newSlab(owner *documents, size int) ([]byte, error) {
	slab, err := syscall.Mmap(-1, 0, size, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_ANON|syscall.MAP_PRIVATE)
	if err != nil {
		return nil, fmt.Errorf("getting memory for documents: %w", err)
	}
	runtime.AddCleanup(owner, func(slab []byte) { _ = syscall.Munmap(slab) }, slab) // at worst it stays until the process ends
	return slab[:0], nil
}
