// Package classify judges what an upstream's answer says about the account
// that it was given to: status, headers and the start of the body in, a
// [pool.Verdict] out. It does no I/O, holds no state and knows no secret.
//
// What is known about a provider stands in one [Provider] each, a table with
// the source of each fact beside it. [Provider.Classify] runs any of them:
//
//  1. The first rule whose conditions hold decides the meaning.
//  2. If none does, the status decides, and blames nobody: below 400 the
//     answer is ok, 4xx is about the request, all else about the provider.
//  3. If the meaning benches the member, the provider's wait sources are
//     asked, and the longest wait counts.
package classify
