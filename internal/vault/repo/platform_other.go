//go:build unix && !linux

package repo

import (
	"os"
	"syscall"
)

// Extended attributes are carried on Linux alone, where the volumes are.
func readXattrs(*os.File) ([]Xattr, error) { return nil, nil }

func writeXattrs(*os.File, []Xattr) error { return nil }

// syncAll makes everything on the machine's file systems durable.
func syncAll(*os.File) error {
	syscall.Sync()
	return nil
}
