package config

import (
	"strings"
	"testing"
	"time"

	"lifeboat.dev/lifeboat/internal/dr"
)

const scheduled = app + `  namespaces: [shop]
  sites: {preferred: east, recovery: [west]}
`

func TestSchedules(t *testing.T) {
	t.Parallel()
	tier := "---\napiVersion: lifeboat.dev/v1alpha1\nkind: Tier\nmetadata: {name: gold}\nspec: {objectives: {rto: 5m, rpo: 1m}, backup: {every: 1h}}\n"
	for text, want := range map[string]dr.Schedule{
		"  objectives: {rto: 5m, rpo: 1m}\n":                                                 {},
		"  objectives: {rto: 5m, rpo: 1m}\n  backup: {every: 90m}\n":                         {Every: 90 * time.Minute},
		"  tier: gold\n" + tier:                                                              {Every: time.Hour},
		"  tier: gold\n  backup: {cron: '30 3 * * 1-5'}\n" + tier:                            {Cron: "30 3 * * 1-5"},
		"  objectives: {rto: 5m, rpo: 1m}\n  backup: {cron: CRON_TZ=Asia/Tokyo 0 3 * * *}\n": {Cron: "CRON_TZ=Asia/Tokyo 0 3 * * *"},
	} {
		f, err := Parse("/fleet.yaml", []byte(scheduled+text))
		if err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		if got := f.Applications[0].Backup; got != want {
			t.Errorf("%s: %+v, want %+v", text, got, want)
		}
		raw, err := Encode(f)
		if err != nil {
			t.Fatal(err)
		}
		again, err := Parse("/fleet.yaml", raw)
		if err != nil || again.Applications[0].Backup != want {
			t.Errorf("written and read again: %v\n%s", err, raw)
		}
	}
}

func TestSchedulesThatAreNone(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"{}":                                "22:11: Application shop: backup does not say when",
		"{every: 1h, cron: '0 3 * * *'}":    "22:23: Application shop: both every and cron are given",
		"{every: often}":                    `22:19: Application shop: backup.every: "often" is not a duration`,
		"{cron: 0 3 * *}":                   `22:18: Application shop: backup.cron "0 3 * *" is not a schedule`,
		"{cron: 0 0 30 2 *}":                "it never comes round",
		"{cron: TZ=0}":                      "nothing follows the time zone",
		"{cron: CRON_TZ=Nowhere 0 3 * * *}": "is not a schedule",
		"{daily: yes}":                      "unknown field backup.daily",
	} {
		_, err := Parse("/fleet.yaml", []byte(scheduled+"  objectives: {rto: 5m, rpo: 1m}\n  backup: "+text+"\n"))
		if err == nil || !strings.Contains(err.Error(), strings.Replace(want, "22:", "23:", 1)) {
			t.Errorf("%s: %v, want %s", text, err, want)
		}
	}
}
