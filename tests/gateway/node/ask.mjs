// Makes the requests on standard input with the SDKs of npm, and prints what they return.
import Anthropic from "@anthropic-ai/sdk";
import { GoogleGenAI } from "@google/genai";
import OpenAI from "openai";

const SDKS = {
  openai: async ({ base, body }) => {
    const client = new OpenAI({ apiKey: "SECRET", baseURL: `${base}/v1`, maxRetries: 0 });
    return client.chat.completions.create(body);
  },
  responses: async ({ base, body }) => {
    const client = new OpenAI({ apiKey: "SECRET", baseURL: `${base}/v1`, maxRetries: 0 });
    return client.responses.create(body);
  },
  anthropic: async ({ base, body }) => {
    const client = new Anthropic({ apiKey: "SECRET", baseURL: base, maxRetries: 0 });
    return client.messages.create(body);
  },
  genai: async ({ base, body, stream }) => {
    const client = new GoogleGenAI({ apiKey: "SECRET", httpOptions: { baseUrl: base } });
    const { contents, ...rest } = body;
    const ask = stream ? "generateContentStream" : "generateContent";
    return client.models[ask]({ model: "m", contents, config: rest.generationConfig ?? {} });
  },
};

async function outcome(job) {
  try {
    const found = await SDKS[job.sdk](job);
    if (found[Symbol.asyncIterator] === undefined) return { value: plain(found) };
    const chunks = [];
    for await (const chunk of found) chunks.push(plain(chunk));
    return { value: chunks };
  } catch (error) {
    return { status: error.status ?? null, kind: error.constructor.name };
  }
}

function plain(answer) {
  const copy = JSON.parse(JSON.stringify(answer));
  delete copy.sdkHttpResponse; // the headers of the response, among them ours
  return copy;
}

let text = "";
for await (const piece of process.stdin) text += piece;
const outcomes = [];
for (const job of JSON.parse(text)) outcomes.push(await outcome(job));
process.stdout.write(JSON.stringify(outcomes));
