// Package site runs what a site consists of: it starts daemons and restarts them, and finds and
// ends every process that belongs to a site.
package site

import "context"

// Daemon is one long-running program of a site. It is restarted, with a back-off, when it ends.
type Daemon struct {
	Name string   // unique within the site; names the log
	Argv []string // program (an absolute path) and arguments
	Env  []string // KEY=VALUE, added to the supervisor's own environment, which carries the markers
	Dir  string   // working directory; empty: the supervisor's
	Log  string   // file that stdout and stderr are appended to; empty: log/NAME.log in the site's directory
	// Ready returns nil once the daemon serves; the daemons after it in the list start only then.
	// It is called again and again until it does, or until its deadline passes. nil: ready at once.
	Ready func(context.Context) error
}
