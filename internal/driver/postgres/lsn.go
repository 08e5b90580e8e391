package postgres

import (
	"fmt"

	"lifeboat.dev/lifeboat/internal/dr"
)

// LSN is a position in a write-ahead log, in bytes.
type LSN uint64

// ParseLSN reads PostgreSQL's form: "16/B374D848".
func ParseLSN(s string) (LSN, error) {
	at, err := dr.ParseLogPosition(s)
	return LSN(at), err
}

func (l LSN) String() string { return fmt.Sprintf("%X/%X", uint64(l)>>32, uint32(l)) }

// segment is the number of the segment that holds the position.
func (l LSN) segment(size uint64) uint64 { return uint64(l) / size }

// segmentName is a segment's file name.
func segmentName(timeline uint32, number, size uint64) string {
	each := (uint64(1) << 32) / size // segments in a log file of old, which the name still follows
	return fmt.Sprintf("%08X%08X%08X", timeline, number/each, number%each)
}

func historyName(timeline uint32) string { return fmt.Sprintf("%08X.history", timeline) }
