package gateway

import (
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"net"
	"net/http"
	"slices"
	"strings"
)

// errPreflight means that the browser's question before a request is answered
// with yes.
var errPreflight = errors.New("preflight")

// admit lets a request in or says why not.
//
// Three things stand between a page on the web and a service on loopback. A
// page whose name was made to point at 127.0.0.1 sends its own name as the host,
// which is none of ours. A page that posts across origins says so in Origin or
// Sec-Fetch-Site. And without CORS it cannot read what comes back.
func (g *Gateway) admit(c *call) error {
	if !g.knownHost(c.r) {
		return &httpError{http.StatusForbidden, "unknown_host", "the host " + clip(c.r.Host) + " is no name of this machine; add it to the hosts that are allowed if it is"}
	}
	origin := c.r.Header.Get("Origin")
	if origin != "" && g.allowedOrigin(origin) {
		h := c.w.Header()
		h.Set("Access-Control-Allow-Origin", origin)
		h.Add("Vary", "Origin")
		h.Set("Access-Control-Expose-Headers", strings.Join(append([]string{"X-Request-Id", "Retry-After"}, geistHeaders...), ", "))
		if c.r.Method == http.MethodOptions && c.r.Header.Get("Access-Control-Request-Method") != "" {
			h.Set("Access-Control-Allow-Methods", "GET, HEAD, POST")
			allow := "authorization, content-type, x-api-key"
			if asked := c.r.Header.Get("Access-Control-Request-Headers"); asked != "" && len(asked) < 4096 {
				allow = asked
			}
			h.Set("Access-Control-Allow-Headers", allow)
			h.Set("Access-Control-Max-Age", "600")
			return errPreflight
		}
	} else if err := g.origin.Check(c.r); err != nil {
		return &httpError{http.StatusForbidden, "cross_origin", "a web page of another origin may not use this; add " + clip(orElse(origin, "its origin")) + " to the origins that are allowed"}
	}
	if len(g.opt.Keys) > 0 && !g.knownKey(c.r) {
		c.w.Header().Set("WWW-Authenticate", `Bearer realm="geist"`)
		return &httpError{http.StatusUnauthorized, "invalid_api_key", "no key, or a wrong one: send it as Authorization: Bearer KEY or as X-Api-Key"}
	}
	return nil
}

func clip(s string) string {
	if len(s) > 128 {
		s = s[:128]
	}
	return strings.ToValidUTF8(s, "")
}

// knownHost tells whether the client asked for this machine by a name of its
// own. Only connections to loopback are looked at: elsewhere names are many,
// and keys are demanded.
func (g *Gateway) knownHost(r *http.Request) bool {
	if local, ok := r.Context().Value(http.LocalAddrContextKey).(*net.TCPAddr); ok && !local.IP.IsLoopback() {
		return true
	}
	host := r.Host
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	host = strings.ToLower(strings.TrimSuffix(strings.Trim(host, "[]"), "."))
	if host == "localhost" || strings.HasSuffix(host, ".localhost") || host == "" {
		return true
	}
	if ip := net.ParseIP(host); ip != nil {
		return true // names are what can be made to point elsewhere
	}
	return slices.ContainsFunc(g.opt.Hosts, func(h string) bool { return strings.EqualFold(h, host) })
}

func (g *Gateway) allowedOrigin(origin string) bool {
	return slices.Contains(g.opt.Origins, "*") || slices.Contains(g.opt.Origins, origin)
}

func crossOrigin(origins []string) (*http.CrossOriginProtection, error) {
	p := http.NewCrossOriginProtection()
	for _, o := range origins {
		if o == "*" {
			continue // allowedOrigin answers before the protection is asked
		}
		if err := p.AddTrustedOrigin(o); err != nil {
			return nil, err
		}
	}
	return p, nil
}

// keyCookie is where a browser keeps the key that it was given once.
const keyCookie = "geist-key"

// pageKey takes a browser that shows its key in the address, /?key=KEY, to the
// page, with the key in a cookie that no script reads and no other site sends.
func (c *call) pageKey() bool {
	key := c.r.URL.Query().Get("key")
	if key == "" || len(c.g.opt.Keys) == 0 {
		return false
	}
	http.SetCookie(c.w, &http.Cookie{Name: keyCookie, Value: key, Path: "/", HttpOnly: true, SameSite: http.SameSiteStrictMode, Secure: c.r.TLS != nil})
	http.Redirect(c.w, c.r, "/", http.StatusSeeOther)
	return true
}

func (g *Gateway) knownKey(r *http.Request) bool {
	key := r.Header.Get("X-Api-Key")
	if scheme, rest, ok := strings.Cut(r.Header.Get("Authorization"), " "); ok && strings.EqualFold(scheme, "Bearer") {
		key = strings.TrimSpace(rest)
	}
	if key == "" { // of a browser, see pageKey
		if c, err := r.Cookie(keyCookie); err == nil {
			key = c.Value
		}
	}
	if key == "" && clean(r.URL.Path) == "/" {
		key = r.URL.Query().Get("key")
	}
	// Sums have one length, so the comparison tells nothing by its time.
	got, found := sha256.Sum256([]byte(key)), 0
	for _, k := range g.opt.Keys {
		want := sha256.Sum256([]byte(k))
		found |= subtle.ConstantTimeCompare(got[:], want[:])
	}
	return found == 1
}
