package market

import "testing"

// An endpoint is put before a path: nothing in it may swallow that.
func TestCheckURL(t *testing.T) {
	for s, ok := range map[string]bool{
		"http://127.0.0.1:1": true, "https://node.example/base": true,
		"http://127.0.0.1:1/x#": false, "http://127.0.0.1:1/x?": false, "http://127.0.0.1:1/#a": false, "http://a@b": false, "ftp://a": false, "http://": false, "http:a": false,
	} {
		if err := checkURL(s); (err == nil) != ok {
			t.Errorf("%s: %v", s, err)
		}
	}
}
