// A conversation by OpenAI's own client for Node; prints what it saw, as JSON.
//
//     node talk.mjs BASE_URL '{"text": "hello", "tokens": 400}'

import OpenAI from "openai";

const [baseURL, given] = process.argv.slice(2);
const { text, tokens } = JSON.parse(given);
const client = new OpenAI({ baseURL, apiKey: "none", maxRetries: 0 });
const model = "demo";

const stream = client.responses.stream({ model, input: text, temperature: 0, max_output_tokens: tokens });
let pieces = "";
stream.on("response.output_text.delta", (event) => (pieces += event.delta));
const first = await stream.finalResponse();

const second = await client.responses.create({
  model,
  input: text,
  previous_response_id: first.id,
  max_output_tokens: 4,
});

const runner = client.chat.completions.stream({
  model,
  messages: [{ role: "user", content: text }],
  temperature: 0,
  max_tokens: tokens,
  stream_options: { include_usage: true },
});
const chat = await runner.finalContent();
const usage = await runner.totalUsage();

const refused = await client.chat.completions
  .create({ model, messages: [{ role: "user", content: text }], n: 2 })
  .catch((error) => ({ status: error.status, param: error.param, name: error.constructor.name }));

const models = [];
for await (const each of client.models.list()) models.push(each.id);

const seen = { ids: [first.id, second.id], pieces, text: first.output_text, chat, usage, refused, models };
console.log(JSON.stringify(seen));
