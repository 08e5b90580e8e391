package shop

import (
	"bytes"
	"encoding/json"
	"fmt"
	"hash/crc32"
	"time"
)

// The log is one JSON record a line. A record is one group commit: its orders are all there or none,
// and the next one is written only after this one is on disk. A torn record can therefore only be the
// last, and none of its orders was acknowledged.
type record struct {
	Sum  string          `json:"crc32c"`
	Body json.RawMessage `json:"body"`
}

type body struct {
	Store  *identity `json:"store,omitempty"` // first record only
	Orders []Order   `json:"orders,omitempty"`
}

// identity is made when a data directory is first initialised.
type identity struct {
	DataID  string    `json:"dataID"`
	Created time.Time `json:"created"`
}

func checksum(b []byte) string {
	return fmt.Sprintf("%08x", crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli)))
}

func encodeRecord(b body) ([]byte, error) {
	raw, err := json.Marshal(b)
	if err != nil {
		return nil, fmt.Errorf("encoding a record: %w", err)
	}
	line, err := json.Marshal(record{Sum: checksum(raw), Body: raw})
	if err != nil {
		return nil, fmt.Errorf("encoding a record: %w", err)
	}
	return append(line, '\n'), nil
}

func decodeRecord(line []byte) (body, error) {
	var (
		r record
		b body
	)
	if err := json.Unmarshal(line, &r); err != nil {
		return b, fmt.Errorf("not a record: %w", err)
	}
	if got := checksum(r.Body); got != r.Sum {
		return b, fmt.Errorf("checksum is %s, the record says %s", got, r.Sum)
	}
	if err := json.Unmarshal(r.Body, &b); err != nil {
		return b, fmt.Errorf("body of a record: %w", err)
	}
	return b, nil
}

// replay reads a log and calls use for each good record. It returns how many bytes are good: less than
// all of them where the last record is torn. A bad record with a good one behind it is damage, not a
// torn write, and an error.
func replay(log []byte, use func(body) error) (int64, error) {
	var good int64
	for rest := log; len(rest) > 0; {
		line, behind, ended := bytes.Cut(rest, []byte{'\n'})
		b, err := decodeRecord(line)
		if err == nil && !ended {
			err = fmt.Errorf("the record does not end")
		}
		if err != nil {
			if at, ok := goodRecordIn(behind); ok {
				return good, fmt.Errorf("record at byte %d is damaged (%w) but %d bytes behind it a good one follows: orders would be lost", good, err, at)
			}
			return good, nil
		}
		if err := use(b); err != nil {
			return good, fmt.Errorf("record at byte %d: %w", good, err)
		}
		good += int64(len(line)) + 1
		rest = behind
	}
	return good, nil
}

func goodRecordIn(log []byte) (at int, ok bool) {
	for rest := log; len(rest) > 0; {
		line, behind, ended := bytes.Cut(rest, []byte{'\n'})
		if _, err := decodeRecord(line); err == nil && ended {
			return len(log) - len(rest), true
		}
		rest = behind
	}
	return 0, false
}
