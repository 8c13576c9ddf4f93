// Package job is one paid request from offer to settlement (docs/spec/job.md): the
// order and the events as bytes, and two state machines, Asker and Provider.
//
// The machines have no clock, no I/O and no goroutines. Step takes the state, the time
// and what happened, and gives the next state and what to do now; whoever drives
// one does the actions in the order given and reports what comes of them as
// further inputs. The same inputs give the same actions.
//
// The action Save comes before any action that depends on it: the driver writes the
// machine's Encode durably, then goes on. After a crash it decodes the state, opens
// the payment session again, and steps with Restarted.
//
// What holds, for any order of lost, doubled, late and lying messages and any
// crashes (simulate_test.go):
//
//   - the asker promises only due(k) of k tokens that are saved;
//   - the provider has at most the prompt and Window tokens delivered and unpaid;
//   - a job that is refused, fails before its first token or has no tokens costs nothing;
//   - tokens that came with the order are never charged;
//   - every run ends in a final phase, with a Code that has a sentence for people.
package job
