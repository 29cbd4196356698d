// Asks for a chat completion with OpenAI's SDK, whose folder is the first
// argument, and prints the answer. The second says how: completion or stream.
// Nothing is retried.
const [sdk, how] = process.argv.slice(2)
const { OpenAI } = require(sdk)

async function main() {
	const client = new OpenAI({ maxRetries: 0 })
	const question = { model: 'gpt-4o', messages: [{ role: 'user', content: 'say hi' }] }
	if (how === 'completion') {
		const answer = await client.chat.completions.create(question)
		process.stdout.write(answer.choices[0].message.content)
		return
	}
	for await (const chunk of await client.chat.completions.create({ ...question, stream: true })) {
		process.stdout.write(chunk.choices[0].delta.content ?? '')
	}
}

main()
