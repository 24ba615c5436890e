// The service and its messages, from the protos alone: nothing is generated.

import { credentials, loadPackageDefinition, Metadata } from '@grpc/grpc-js';
import { loadSync } from '@grpc/proto-loader';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';

const FILES = [
  'sinkserve/runtime/v1/conversation_service.proto',
  'google/rpc/status.proto',
  'google/rpc/error_details.proto',
];
const READING = { longs: String, enums: String, defaults: true, oneofs: true }; // a sequence exceeds 2^53 some day
const SESSION_KEY = 'sinkserve-session-id'; // what balancers route by
const KEEPALIVE = { 'grpc.keepalive_time_ms': 60_000, 'grpc.keepalive_timeout_ms': 20_000 };
const TOKEN = process.env.SINKSERVE_CLIENT_TOKEN; // where there is a login
const DEADLINE_MS = 20_000;

const CA = process.env.SINKSERVE_CLIENT_CA; // where the server speaks TLS
const CREDENTIALS = CA ? credentials.createSsl(readFileSync(CA)) : credentials.createInsecure();

export class Service {
  constructor(protos, address) {
    this.definitions = loadSync(FILES, { ...READING, includeDirs: [protos, join(protos, 'third_party')] });
    const { ConversationService } = loadPackageDefinition(this.definitions).sinkserve.runtime.v1;
    this.address = address;
    this.stub = new ConversationService(address, CREDENTIALS, KEEPALIVE);
  }

  // The same service at another address.
  at(address) {
    const other = Object.create(Service.prototype, Object.getOwnPropertyDescriptors(this));
    other.address = address;
    other.stub = new this.stub.constructor(address, CREDENTIALS, KEEPALIVE);
    return other;
  }

  // A stream has no deadline: it lives as long as the conversation.
  converse(sessionId) {
    return this.stub.converse(routed(sessionId));
  }

  // One turn, for clients that cannot send a stream.
  runTurn(session, turn) {
    return this.stub.runTurn({ session, turn }, routed(idOf(session)));
  }

  // Answer of a unary method, such as `getSession`, on sessions/ID.
  ask(method, session, request = { name: session }) {
    const options = { deadline: Date.now() + DEADLINE_MS };
    return new Promise((resolve, reject) => {
      const answer = (error, response) => (error ? reject(error) : resolve(response));
      this.stub[method](request, routed(idOf(session)), options, answer);
    });
  }

  // A message of type `name` from its bytes.
  decode(name, bytes) {
    return this.definitions[name].deserialize(bytes);
  }

  close() {
    this.stub.close();
  }
}

export function idOf(session) {
  return session.replace('sessions/', '');
}

function routed(sessionId) {
  const metadata = new Metadata();
  metadata.set(SESSION_KEY, sessionId);
  if (TOKEN) {
    metadata.set('authorization', `Bearer ${TOKEN}`);
  }
  return metadata;
}
