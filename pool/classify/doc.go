// Package classify judges what an upstream's answer says about the account
// that it was given to: status, headers and the start of the body in, a
// [pool.Verdict] out. It does no I/O, holds no state and knows no secret.
//
// What is known about a provider stands in one [Provider] each, a table with
// the source of each fact beside it. [Provider.Explain] runs any of them:
//
//  1. An answer below 400 is ok, unless its headers tell that the quota is now
//     used up (Provider.Success), or it is of a kind that can report a failure
//     in its body: the first events of an event stream, a small JSON body.
//  2. For a failure the first rule whose conditions hold decides. 5xx never
//     blames the member: only a user's own rule can.
//  3. If none does, the status decides, and blames nobody: 4xx is about the
//     request, all else about the provider.
//  4. If the meaning benches the member, the provider's wait sources are asked.
//     Those that say "come back then" outright beat those that describe a
//     window; among several of one rank the longest counts.
//
// Rules read an error's codes and words from the places in which APIs put them
// (see evidence), not from anywhere in the body: an error may quote the user. For
// the same reason what a message quotes is left out, its beginning is what
// counts, and several errors in one answer are judged apart.
package classify
