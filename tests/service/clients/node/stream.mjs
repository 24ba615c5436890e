// One call that tells of a conversation.

import { ofCall } from './errors.mjs';
import { idOf } from './service.mjs';

export class Stream {
  constructor(service, session, call = service.converse(idOf(session))) {
    this.service = service;
    this.call = call;
    this.session = session;
    this.lastSequence = undefined;
    this.arrivals = this.call[Symbol.asyncIterator]();
    this.status = new Promise((resolve) => this.call.on('status', resolve)).then((status) => ofCall(service, status));
  }

  // Opens a new session, or finds the one of this id after an answer that was lost.
  static async create(service, newSession) {
    const stream = new Stream(service, `sessions/${newSession.sessionId}`);
    stream.send({ open: { newSession: { engine: 'demo', ...newSession } } });
    return stream.answered();
  }

  // Opens a session that exists; with `afterSequence`, events after it come again.
  static async resume(service, session, afterSequence) {
    const stream = new Stream(service, session);
    stream.send({ open: { session, ...(afterSequence === undefined ? {} : { afterSequence }) } });
    return stream.answered();
  }

  async answered() {
    this.opened = await this.next();
    return this;
  }

  send(request) {
    this.call.write(request);
  }

  // The next event as { kind, sequence, ... }; undefined at a good end; throws what grpc-js emits.
  async next() {
    const { value: response, done } = await this.arrivals.next();
    if (done) {
      return undefined;
    }
    if (response.sequence !== '0') {
      this.lastSequence = response.sequence;
    }
    return { kind: response.event, sequence: response.sequence, ...response[response.event] };
  }

  // Events up to the first of one of these kinds, itself included.
  async until(...kinds) {
    const events = [];
    while (!kinds.includes(events.at(-1)?.kind)) {
      const event = await this.next();
      if (event === undefined) {
        throw new Error(`the stream ended before ${kinds}`);
      }
      events.push(event);
    }
    return events;
  }

  async say(turn) {
    this.send({ turn });
    return this.until('finished', 'rejected');
  }

  halfClose() {
    this.call.end();
  }

  // Everything up to the end, and how it ended.
  async rest() {
    const events = [];
    try {
      for (let event = await this.next(); event !== undefined; event = await this.next()) {
        events.push(event);
      }
    } catch (error) {
      return { events, status: ofCall(this.service, error) };
    }
    return { events, status: await this.status };
  }
}
