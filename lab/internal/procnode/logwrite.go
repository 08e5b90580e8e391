package procnode

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"
)

const (
	logMaxSize = 10 << 20 // a log is rotated when it has grown past this; one older file is kept
	logMaxLine = 16 << 10 // longer lines are stored in parts, as container runtimes do
)

// stampFormat is RFC 3339 with all nine digits, so that stamps sort as text.
const stampFormat = "2006-01-02T15:04:05.000000000Z07:00"

// logFile is one container instance's log, in the format of container runtimes: time, stream, F (a
// full line) or P (a part of one), text.
type logFile struct {
	mu      sync.Mutex
	path    string
	f       *os.File
	size    int64
	max     int64
	rotated int // how often
	closed  bool
	news    broadcast
	now     func() time.Time
}

func logPath(dir string, restart int) string { return filepath.Join(dir, strconv.Itoa(restart)+".log") }

func createLog(path string) (*logFile, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o640)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	return &logFile{path: path, f: f, size: info.Size(), max: logMaxSize, now: time.Now}, nil
}

// copyFrom stores what r gives until it ends, under the stream's name.
func (l *logFile) copyFrom(stream string, r io.Reader) error {
	var line, out []byte
	buf := make([]byte, 32<<10)
	for {
		n, err := r.Read(buf)
		stamp := l.now().UTC().Format(stampFormat)
		out = out[:0]
		for rest := buf[:n]; len(rest) > 0; {
			i := bytes.IndexByte(rest, '\n')
			if i < 0 {
				line = append(line, rest...)
				for len(line) >= logMaxLine {
					out = appendRecord(out, stamp, stream, 'P', line[:logMaxLine])
					line = append(line[:0], line[logMaxLine:]...)
				}
				break
			}
			line = append(line, rest[:i]...)
			out = appendRecord(out, stamp, stream, 'F', line)
			line, rest = line[:0], rest[i+1:]
		}
		if err != nil && len(line) > 0 {
			out = appendRecord(out, stamp, stream, 'P', line)
		}
		if werr := l.write(out); werr != nil {
			return werr
		}
		if err != nil {
			return ignoreEOF(err)
		}
	}
}

func ignoreEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

func appendRecord(out []byte, stamp, stream string, tag byte, text []byte) []byte {
	out = append(append(append(out, stamp...), ' '), stream...)
	out = append(append(append(out, ' ', tag, ' '), text...), '\n')
	return out
}

func (l *logFile) write(records []byte) error {
	if len(records) == 0 {
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return os.ErrClosed
	}
	if l.size > l.max {
		if err := l.rotate(); err != nil {
			return err
		}
	}
	n, err := l.f.Write(records)
	l.size += int64(n)
	l.news.fire()
	return err
}

func (l *logFile) rotate() error {
	if err := l.f.Close(); err != nil {
		return err
	}
	if err := os.Rename(l.path, l.path+".1"); err != nil {
		return err
	}
	f, err := os.OpenFile(l.path, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o640)
	if err != nil {
		return fmt.Errorf("rotating %s: %w", l.path, err)
	}
	l.f, l.size = f, 0
	l.rotated++
	return nil
}

// close ends the log; followers read what there is and stop.
func (l *logFile) close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil
	}
	l.closed = true
	l.news.fire()
	return l.f.Close()
}

// state is what a follower needs to know before it waits.
func (l *logFile) state() (rotated int, closed bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.rotated, l.closed
}

// tailText is the end of a log as plain text, for a termination message.
func tailText(path string, lines, limit int) string {
	raw, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	if max := 4 * limit; len(raw) > max {
		raw = raw[len(raw)-max:]
	}
	records := bytes.Split(bytes.TrimRight(raw, "\n"), []byte("\n"))
	if len(records) > lines {
		records = records[len(records)-lines:]
	}
	var b bytes.Buffer
	for _, r := range records {
		if rec, ok := parseRecord(r); ok {
			b.Write(rec.text)
			b.WriteByte('\n')
		}
	}
	out := b.Bytes()
	if len(out) > limit {
		out = out[len(out)-limit:]
	}
	return string(out)
}
