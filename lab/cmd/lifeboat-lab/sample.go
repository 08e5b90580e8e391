package main

import (
	"time"

	"github.com/spf13/cobra"

	"lifeboat.dev/lifeboat/internal/dr"
	"lifeboat.dev/lifeboat/lab"
)

func newSample(g *global) *cobra.Command {
	host, ttl := lab.SampleHost, 2*time.Second
	c := onSite(g, &cobra.Command{
		Use:   "sample SITE",
		Short: "Install the sample application on a site and lead its name there",
		Long: `Installs the sample application shop on a site, waits until it is ready, and sets the A record of its
host in the lab's zone to the site's ingress address.`,
		Example: "  lifeboat-lab sample east --host shop.lab.test --ttl 2s",
	}, "serving the sample application", func(c *cobra.Command, l *lab.Lab, site string) error {
		if ttl < time.Second {
			return dr.Errorf(dr.ClassUsage, nil, "Use a second or more.", "a TTL of %s is too short", ttl)
		}
		return l.Sample(c.Context(), site, host, ttl, g.say)
	})
	c.Flags().StringVar(&host, "host", host, "host name of the application, in the lab's zone")
	c.Flags().DurationVar(&ttl, "ttl", ttl, "time to live of its DNS record")
	return c
}
