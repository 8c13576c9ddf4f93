package gateway

import (
	"net/http"
	"net/http/httptest"
	"testing"
)

// A browser shows its key once, in the address of the page, and then has a cookie
// that lets it in everywhere; without the key, nothing is there.
func TestPageKey(t *testing.T) {
	const key = "a key of sixteen characters"
	g, err := New(Options{Backend: &fake{}, Keys: []string{key}, Page: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.Write([]byte("the page")) })})
	if err != nil {
		t.Fatal(err)
	}
	get := func(path, cookie string) *http.Response {
		r := httptest.NewRequest("GET", "http://127.0.0.1"+path, nil)
		r.Header.Set("Accept", "text/html")
		if cookie != "" {
			r.AddCookie(&http.Cookie{Name: keyCookie, Value: cookie})
		}
		w := httptest.NewRecorder()
		g.ServeHTTP(w, r)
		return w.Result()
	}
	for _, path := range []string{"/", "/?key=wrong", "/v1/models", "/v1/models?key=" + "a+key+of+sixteen+characters", "/geist/v1/node"} {
		if r := get(path, ""); r.StatusCode != http.StatusUnauthorized {
			t.Errorf("%s without a key: %s", path, r.Status)
		}
	}
	r := get("/?key=a+key+of+sixteen+characters", "")
	if r.StatusCode != http.StatusSeeOther || len(r.Cookies()) != 1 {
		t.Fatalf("%s, %d cookies", r.Status, len(r.Cookies()))
	}
	c := r.Cookies()[0]
	if !c.HttpOnly || c.SameSite != http.SameSiteStrictMode || c.Name != keyCookie {
		t.Errorf("%+v", c)
	}
	for _, path := range []string{"/", "/v1/models"} {
		if r := get(path, c.Value); r.StatusCode != http.StatusOK {
			t.Errorf("%s with the cookie: %s", path, r.Status)
		}
	}
	if r := get("/", "wrong"); r.StatusCode != http.StatusUnauthorized {
		t.Errorf("a wrong cookie: %s", r.Status)
	}
}
