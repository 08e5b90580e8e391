package config

import (
	"errors"
	"strings"
	"time"

	"github.com/robfig/cron/v3"

	"lifeboat.dev/lifeboat/internal/dr"
)

// schedule reads when data is backed up by itself.
func schedule(o *object) dr.Schedule {
	b, ok := o.object("backup", optional)
	if !ok {
		return dr.Schedule{}
	}
	defer b.end()
	every, expr := b.duration("every", optional, 0), b.text("cron", optional)
	switch {
	case b.has("every") && b.has("cron"):
		b.say(b.keys["cron"], "keep one of the two", "both every and cron are given")
	case !b.has("every") && !b.has("cron"):
		b.say(b.node, `write {every: 1h} or {cron: "0 3 * * *"}`, "backup does not say when")
	case expr.ok():
		if err := checkCron(expr.value); err != nil {
			b.say(expr.node, `write minute, hour, day, month and day of the week, such as "0 3 * * *" for 3:00 UTC`, "backup.cron %q is not a schedule: %v", expr.value, err)
		}
	}
	return dr.Schedule{Every: every, Cron: expr.value}
}

// checkCron refuses what never comes round, and a zone without anything behind it, which the library does not
// survive.
func checkCron(expr string) error {
	if strings.Contains(expr, "TZ=") && !strings.Contains(expr, " ") {
		return errors.New("nothing follows the time zone")
	}
	c, err := cron.ParseStandard(expr)
	if err != nil {
		return err
	}
	if c.Next(time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)).IsZero() {
		return errors.New("it never comes round")
	}
	return nil
}
