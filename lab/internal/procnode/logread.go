package procnode

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"time"
)

// logRecord is one line, or part of one, of a log file.
type logRecord struct {
	stamp string
	full  bool
	text  []byte
}

func parseRecord(line []byte) (logRecord, bool) {
	stamp, rest, ok := bytes.Cut(line, []byte(" "))
	if !ok {
		return logRecord{}, false
	}
	_, rest, ok = bytes.Cut(rest, []byte(" "))
	if !ok || len(rest) < 2 {
		return logRecord{}, false
	}
	return logRecord{stamp: string(stamp), full: rest[0] == 'F', text: rest[2:]}, true
}

// logQuery is which part of a log is wanted, and how.
type logQuery struct {
	follow, timestamps bool
	tail               int64 // -1 for all
	since              time.Time
	limit              int64 // bytes; -1 for no limit
}

var errLimit = errors.New("log limit reached")

// readLog writes a container's log to w. live is the writer while the container runs; following ends
// when it closes.
func readLog(ctx context.Context, w io.Writer, path string, live *logFile, q logQuery) error {
	out := &logPrinter{w: w, q: q, left: q.limit, lineStart: true}
	err := out.read(ctx, path, live)
	if errors.Is(err, errLimit) {
		return nil
	}
	return err
}

type logPrinter struct {
	w         io.Writer
	q         logQuery
	left      int64
	lineStart bool
	buf       []byte
}

func (p *logPrinter) read(ctx context.Context, path string, live *logFile) error {
	skip := int64(0)
	if p.q.tail >= 0 {
		total, err := countLines(path+".1", path)
		if err != nil {
			return err
		}
		skip = max(0, total-p.q.tail)
	}
	if live != nil {
		live.mu.Lock() // so that no rotation falls between the two files
	}
	old, oldErr := os.Open(path + ".1")
	f, err := os.Open(path)
	rotated := 0
	if live != nil {
		rotated = live.rotated
		live.mu.Unlock()
	}
	if oldErr == nil {
		skip, oldErr = p.readOld(old, skip)
		if oldErr != nil {
			return errors.Join(oldErr, closeIf(f))
		}
	}
	if err != nil {
		return err
	}
	return p.readLive(ctx, f, path, live, rotated, skip)
}

func closeIf(f *os.File) error {
	if f == nil {
		return nil
	}
	return f.Close()
}

func (p *logPrinter) readOld(f *os.File, skip int64) (int64, error) {
	defer func() { _ = f.Close() }() // only read
	r := bufio.NewReaderSize(f, 64<<10)
	for {
		line, err := r.ReadBytes('\n')
		if err != nil {
			return skip, errors.Join(ignoreEOF(err), p.flush())
		}
		if skip, err = p.print(line, skip); err != nil {
			return skip, err
		}
	}
}

func (p *logPrinter) readLive(ctx context.Context, f *os.File, path string, live *logFile, rotated int, skip int64) error {
	defer func() { _ = f.Close() }() // only read; the variable follows rotations
	r := bufio.NewReaderSize(f, 64<<10)
	var part []byte
	for {
		var news <-chan struct{}
		var closed bool
		var at int
		if live != nil {
			news = live.news.changed()
			at, closed = live.state()
		}
		line, err := r.ReadBytes('\n')
		part = append(part, line...)
		switch {
		case err == nil:
			if skip, err = p.print(part, skip); err != nil {
				return err
			}
			part = part[:0]
		case !errors.Is(err, io.EOF):
			return err
		case at != rotated:
			next, err := os.Open(path)
			if err != nil {
				return err
			}
			_ = f.Close() // only read
			f, rotated = next, at
			r.Reset(f)
		default:
			if err := p.flush(); err != nil {
				return err
			}
			if !p.q.follow || live == nil || closed {
				return nil
			}
			select {
			case <-ctx.Done():
				return nil
			case <-news:
			}
		}
	}
}

// print adds one record to what is to be written; skip counts the lines still to be left out.
func (p *logPrinter) print(line []byte, skip int64) (int64, error) {
	rec, ok := parseRecord(bytes.TrimSuffix(line, []byte("\n")))
	if !ok {
		return skip, nil
	}
	if skip > 0 {
		if rec.full {
			skip--
		}
		return skip, nil
	}
	if !p.q.since.IsZero() {
		if at, err := time.Parse(time.RFC3339Nano, rec.stamp); err == nil && at.Before(p.q.since) {
			return skip, nil
		}
	}
	if p.q.timestamps && p.lineStart {
		p.buf = append(append(p.buf, rec.stamp...), ' ')
	}
	p.buf = append(p.buf, rec.text...)
	p.lineStart = rec.full
	if rec.full {
		p.buf = append(p.buf, '\n')
	}
	if len(p.buf) >= 32<<10 {
		return skip, p.flush()
	}
	return skip, nil
}

func (p *logPrinter) flush() error {
	if len(p.buf) == 0 {
		return nil
	}
	out := p.buf
	if p.q.limit >= 0 && int64(len(out)) >= p.left {
		out = out[:p.left]
	}
	n, err := p.w.Write(out)
	p.left -= int64(n)
	p.buf = p.buf[:0]
	if err != nil {
		return err
	}
	if f, ok := p.w.(interface{ Flush() }); ok {
		f.Flush()
	}
	if p.q.limit >= 0 && p.left <= 0 {
		return errLimit
	}
	return nil
}

// countLines counts the full lines of a log's files; one that is missing has none. A last line
// without an end counts too.
func countLines(paths ...string) (int64, error) {
	total, open := int64(0), false
	for _, path := range paths {
		f, err := os.Open(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return 0, err
		}
		r := bufio.NewReaderSize(f, 64<<10)
		for {
			line, err := r.ReadBytes('\n')
			if err != nil {
				_ = f.Close() // only read
				if err == io.EOF {
					break
				}
				return 0, err
			}
			if rec, ok := parseRecord(bytes.TrimSuffix(line, []byte("\n"))); ok {
				open = !rec.full
				if rec.full {
					total++
				}
			}
		}
	}
	if open {
		total++
	}
	return total, nil
}
