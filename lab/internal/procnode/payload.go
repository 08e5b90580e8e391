package procnode

import (
	"context"
	"fmt"
	"io/fs"
	"time"

	authv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
)

// payload is the content of a volume that the agent writes, with the instant by which it should be
// written again (zero: only when an object changes).
type payload struct {
	files map[string]payloadFile
	renew time.Time
}

func (p *payload) put(name string, data []byte, mode *int32, fallback *int32) {
	m := int32(0o644)
	if fallback != nil {
		m = *fallback
	}
	if mode != nil {
		m = *mode
	}
	p.files[name] = payloadFile{data: data, mode: fs.FileMode(m)}
}

// tokenSource issues service account tokens; one per volume path is kept until it wants renewing.
type tokenSource struct {
	request func(ctx context.Context, namespace, account string, r *authv1.TokenRequest) (*authv1.TokenRequest, error)
	held    map[string]heldToken
	now     func() time.Time
}

type heldToken struct {
	token string
	renew time.Time
}

// get returns a token bound to the pod, and when to ask for the next: at four fifths of its life.
func (t *tokenSource) get(ctx context.Context, key string, pod *corev1.Pod, src *corev1.ServiceAccountTokenProjection) (heldToken, error) {
	if h, ok := t.held[key]; ok && t.now().Before(h.renew) {
		return h, nil
	}
	r := &authv1.TokenRequest{Spec: authv1.TokenRequestSpec{
		ExpirationSeconds: src.ExpirationSeconds,
		BoundObjectRef:    &authv1.BoundObjectReference{APIVersion: "v1", Kind: "Pod", Name: pod.Name, UID: pod.UID},
	}}
	if src.Audience != "" {
		r.Spec.Audiences = []string{src.Audience}
	}
	asked := t.now()
	got, err := t.request(ctx, pod.Namespace, pod.Spec.ServiceAccountName, r)
	if err != nil {
		return heldToken{}, fmt.Errorf("requesting a token of service account %s/%s: %w", pod.Namespace, pod.Spec.ServiceAccountName, err)
	}
	life := got.Status.ExpirationTimestamp.Sub(asked)
	h := heldToken{token: got.Status.Token, renew: asked.Add(life * 4 / 5)}
	t.held[key] = h
	return h, nil
}

// managed reports whether the agent writes the volume's files.
func managed(v *corev1.Volume) bool {
	return v.ConfigMap != nil || v.Secret != nil || v.DownwardAPI != nil || v.Projected != nil
}

// volumePayload gathers what a managed volume holds now.
func (c *cluster) volumePayload(ctx context.Context, f podFacts, v *corev1.Volume, tokens *tokenSource) (payload, error) {
	p := payload{files: map[string]payloadFile{}}
	switch {
	case v.ConfigMap != nil:
		return p, c.addConfigMap(&p, f.pod.Namespace, v.ConfigMap.Name, v.ConfigMap.Items, v.ConfigMap.Optional, v.ConfigMap.DefaultMode)
	case v.Secret != nil:
		return p, c.addSecret(&p, f.pod.Namespace, v.Secret.SecretName, v.Secret.Items, v.Secret.Optional, v.Secret.DefaultMode)
	case v.DownwardAPI != nil:
		return p, addDownward(&p, f, v.DownwardAPI.Items, v.DownwardAPI.DefaultMode)
	}
	for i := range v.Projected.Sources {
		if err := c.addProjection(ctx, &p, f, v, &v.Projected.Sources[i], tokens); err != nil {
			return p, err
		}
	}
	return p, nil
}

func (c *cluster) addProjection(ctx context.Context, p *payload, f podFacts, v *corev1.Volume, s *corev1.VolumeProjection, tokens *tokenSource) error {
	mode := v.Projected.DefaultMode
	switch {
	case s.ConfigMap != nil:
		return c.addConfigMap(p, f.pod.Namespace, s.ConfigMap.Name, s.ConfigMap.Items, s.ConfigMap.Optional, mode)
	case s.Secret != nil:
		return c.addSecret(p, f.pod.Namespace, s.Secret.Name, s.Secret.Items, s.Secret.Optional, mode)
	case s.DownwardAPI != nil:
		return addDownward(p, f, s.DownwardAPI.Items, mode)
	case s.ServiceAccountToken != nil:
		h, err := tokens.get(ctx, v.Name+"/"+s.ServiceAccountToken.Path, f.pod, s.ServiceAccountToken)
		if err != nil {
			return err
		}
		p.put(s.ServiceAccountToken.Path, []byte(h.token), nil, mode)
		if p.renew.IsZero() || h.renew.Before(p.renew) {
			p.renew = h.renew
		}
		return nil
	}
	return fmt.Errorf("volume %s projects a source that process nodes do not know", v.Name)
}

func (c *cluster) addConfigMap(p *payload, namespace, name string, items []corev1.KeyToPath, optional *bool, mode *int32) error {
	m, err := c.configMap(namespace, name, optional)
	if err != nil || m == nil {
		return err
	}
	data := map[string][]byte{}
	for k, v := range m.Data {
		data[k] = []byte(v)
	}
	for k, v := range m.BinaryData {
		data[k] = v
	}
	return addKeys(p, "ConfigMap "+namespace+"/"+name, data, items, optional, mode)
}

func (c *cluster) addSecret(p *payload, namespace, name string, items []corev1.KeyToPath, optional *bool, mode *int32) error {
	s, err := c.secret(namespace, name, optional)
	if err != nil || s == nil {
		return err
	}
	return addKeys(p, "Secret "+namespace+"/"+name, s.Data, items, optional, mode)
}

func addKeys(p *payload, what string, data map[string][]byte, items []corev1.KeyToPath, optional *bool, mode *int32) error {
	if len(items) == 0 {
		for k, v := range data {
			p.put(k, v, nil, mode)
		}
		return nil
	}
	for _, item := range items {
		v, ok := data[item.Key]
		if !ok {
			if optional != nil && *optional {
				continue
			}
			return fmt.Errorf("%s has no key %s", what, item.Key)
		}
		p.put(item.Path, v, item.Mode, mode)
	}
	return nil
}

func addDownward(p *payload, f podFacts, items []corev1.DownwardAPIVolumeFile, mode *int32) error {
	for _, item := range items {
		var value string
		var err error
		switch {
		case item.FieldRef != nil:
			value, err = f.field(item.FieldRef.FieldPath)
		case item.ResourceFieldRef != nil:
			value, err = f.resourceField(&corev1.Container{}, item.ResourceFieldRef)
		}
		if err != nil {
			return err
		}
		p.put(item.Path, []byte(value), item.Mode, mode)
	}
	return nil
}
