package repo

import (
	"crypto/aes"
	"encoding/binary"
	"errors"
	"io"
	"sync"
)

// Sizes of chunks, in bytes. The format recommends them; readers accept any.
const (
	minChunk  = 512 << 10
	normChunk = 1 << 20
	maxChunk  = 8 << 20

	chunkRead  = 128 << 10 // read at a time while looking for a boundary
	gearWindow = 64        // bytes that influence the hash
)

// Boundaries are rarer before the normal size and more frequent after it, which keeps sizes close to
// it. The bits are the hash's highest, because those depend on the whole window.
const (
	maskBefore = uint64(1<<22-1) << (64 - 22)
	maskAfter  = uint64(1<<18-1) << (64 - 18)
)

// gearTable is the secret of content-defined chunking: whoever does not know it cannot tell from the
// sizes of chunks which known file was stored.
type gearTable [256]uint64

func newGearTable(p polynomial) (*gearTable, error) {
	var seed [16]byte
	binary.LittleEndian.PutUint64(seed[:], uint64(p))
	c, err := aes.NewCipher(seed[:])
	if err != nil {
		return nil, err
	}
	t := &gearTable{}
	var block [16]byte
	for i := range t {
		block = [16]byte{0: byte(i)}
		c.Encrypt(block[:], block[:])
		t[i] = binary.LittleEndian.Uint64(block[:])
	}
	return t, nil
}

// chunker cuts a stream at boundaries that depend on the content around them alone.
type chunker struct {
	table *gearTable
	in    io.Reader
	rest  []byte // read already, belongs to the next chunk
	eof   bool
	pool  *sync.Pool // of *[]byte
}

// next returns the next chunk in a buffer from the pool, or io.EOF.
func (c *chunker) next() (*[]byte, error) {
	buffer := c.pool.Get().(*[]byte)
	data := append((*buffer)[:0], c.rest...)
	c.rest = c.rest[:0]
	var sum uint64
	scanned := 0
	for {
		cut, upTo, s := c.table.boundary(data, scanned, sum)
		if cut > 0 {
			c.rest = append(c.rest, data[cut:]...)
			*buffer = data[:cut]
			return buffer, nil
		}
		scanned, sum = upTo, s
		if c.eof {
			*buffer = data
			if len(data) == 0 {
				c.pool.Put(buffer)
				return nil, io.EOF
			}
			return buffer, nil
		}
		var err error
		if data, err = c.fill(data); err != nil {
			c.pool.Put(buffer)
			return nil, err
		}
	}
}

// fill reads as much as is needed to look on for a boundary.
func (c *chunker) fill(data []byte) ([]byte, error) {
	want := min(max(len(data)+chunkRead, minChunk+chunkRead), maxChunk)
	if cap(data) < want {
		grown := make([]byte, len(data), max(want, min(2*cap(data), maxChunk)))
		copy(grown, data)
		data = grown
	}
	n, err := io.ReadFull(c.in, data[len(data):want])
	data = data[:len(data)+n]
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		c.eof = true
		err = nil
	}
	return data, err
}

// boundary looks in data for the chunk's end from scanned on, with the hash so far. cut is 0 when
// there is none yet.
func (t *gearTable) boundary(data []byte, scanned int, sum uint64) (cut, upTo int, _ uint64) {
	i := max(scanned, minChunk-gearWindow)
	if i >= len(data) {
		return 0, scanned, sum
	}
	for end := min(len(data), normChunk); i < end; i++ {
		sum = sum<<1 + t[data[i]]
		if sum&maskBefore == 0 && i >= minChunk {
			return i + 1, 0, 0
		}
	}
	for end := min(len(data), maxChunk); i < end; i++ {
		sum = sum<<1 + t[data[i]]
		if sum&maskAfter == 0 {
			return i + 1, 0, 0
		}
	}
	if i == maxChunk {
		return maxChunk, 0, 0
	}
	return 0, i, sum
}
