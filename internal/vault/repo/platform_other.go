//go:build unix && !linux

package repo

import (
	"errors"
	"os"
	"syscall"
)

// Extended attributes, devices and holes are carried on Linux alone, where the volumes are.
func readXattrs(int) ([]Xattr, error) { return nil, nil }

func writeXattrs(int, []Xattr) error { return nil }

func dropDefaultACL(int) error { return nil }

func makeSpecial(int, string, NodeType, uint64) error { return errors.ErrUnsupported }

func nextData(_ int, offset, size int64) (start, end int64) { return offset, size }

// syncAll makes everything on the machine's file systems durable.
func syncAll(*os.File) error {
	syscall.Sync()
	return nil
}
