package postgres

import (
	"bufio"
	"bytes"
	"fmt"
	"strconv"
	"strings"
)

// stretch is the part of a timeline that lies on a line of history.
type stretch struct {
	timeline uint32
	from, to LSN // to is 0 for the last one, which goes on
}

// parseHistory reads a timeline's history file: the timelines before it, and where each was left.
func parseHistory(timeline uint32, text []byte) ([]stretch, error) {
	var line []stretch
	var from LSN
	for in := bufio.NewScanner(bytes.NewReader(text)); in.Scan(); {
		fields := strings.Fields(in.Text())
		if len(fields) == 0 || strings.HasPrefix(fields[0], "#") {
			continue
		}
		if len(fields) < 2 {
			return nil, fmt.Errorf("history of timeline %d: %q", timeline, in.Text())
		}
		before, err := strconv.ParseUint(fields[0], 10, 32)
		if err != nil {
			return nil, fmt.Errorf("history of timeline %d: %w", timeline, err)
		}
		to, err := ParseLSN(fields[1])
		if err != nil {
			return nil, fmt.Errorf("history of timeline %d: %w", timeline, err)
		}
		line = append(line, stretch{timeline: uint32(before), from: from, to: to})
		from = to
	}
	return append(line, stretch{timeline: timeline, from: from}), nil
}

// lineTo is the whole line of history that ends in a timeline.
func lineTo(timeline uint32, histories map[uint32][]byte) ([]stretch, error) {
	text, ok := histories[timeline]
	if !ok && timeline > 1 {
		return nil, fmt.Errorf("the history of timeline %d is not known", timeline)
	}
	return parseHistory(timeline, text)
}

// on says whether a position of a timeline lies on the line.
func on(line []stretch, timeline uint32, at LSN) bool {
	for _, s := range line {
		if s.timeline == timeline {
			return s.to == 0 || at <= s.to
		}
	}
	return false
}
