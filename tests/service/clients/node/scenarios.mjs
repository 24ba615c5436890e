// What a client does with a conversation. Each returns what the test looks at.

import { randomUUID } from 'node:crypto';
import { setTimeout as pause } from 'node:timers/promises';

import { ofCall, ofStatus, retryOf } from './errors.mjs';
import { Relay } from './relay.mjs';
import { Stream } from './stream.mjs';

const SHORT = { maxNewTokens: 6 };
const LONG = { maxNewTokens: 200, ignoreEos: true };
const ENDLESS = { maxNewTokens: 5000, ignoreEos: true };

const fresh = (service, more = {}) => Stream.create(service, { sessionId: randomUUID(), ...more });

export async function hold(service, { texts }) {
  const stream = await fresh(service, { labels: { client: 'node' } });
  const turns = [];
  for (const text of texts) {
    turns.push(await stream.say({ turnId: randomUUID(), text, generation: SHORT }));
  }
  stream.halfClose();
  const { events, status } = await stream.rest();
  const { session } = await service.ask('getSession', stream.session);
  return { opened: stream.opened, turns, after: events, status, session };
}

export async function halfClose(service) {
  const stream = await fresh(service);
  ['a', 'b', 'c'].forEach((turnId) => stream.send({ turn: { turnId, text: 'hello', generation: SHORT } }));
  stream.halfClose();
  const { events, status } = await stream.rest();
  const { turns } = await service.ask('listTurns', stream.session, { session: stream.session });
  return { events, status, turns };
}

export async function cancel(service) {
  const stream = await fresh(service);
  stream.send({ turn: { turnId: 'endless', text: 'hello', generation: ENDLESS } });
  const events = await stream.until('delta');
  stream.send({ cancel: { turnId: 'endless' } });
  events.push(...(await stream.until('finished')));
  const next = await stream.say({ turnId: 'next', text: 'hello', generation: SHORT });
  stream.halfClose();
  return { events, next, status: (await stream.rest()).status };
}

export async function discard(service) {
  const stream = await fresh(service);
  const before = await stream.say({ text: 'hello', generation: SHORT });
  stream.send({ turn: { turnId: 'regretted', text: 'something else', generation: ENDLESS } });
  await stream.until('delta');
  stream.send({ cancel: { turnId: 'regretted', discard: true } });
  const discarded = (await stream.until('finished')).at(-1);
  const after = await stream.say({ text: 'hello', generation: SHORT });
  stream.halfClose();
  await stream.rest();
  return { before, discarded, after };
}

// The connection is cut in mid-turn. The client comes back and sends the turn again, which runs once.
export async function drop(service, { goesOn, told }) {
  const relay = await Relay.to(service.address);
  const fragile = service.at(relay.address);
  const stream = await fresh(fragile, { options: goesOn ? {} : { onDisconnect: 'ON_DISCONNECT_CANCEL' } });
  const turn = { turnId: randomUUID(), text: 'hello', generation: goesOn ? LONG : ENDLESS };
  stream.send({ turn });
  const before = await stream.until('delta');
  relay.cut();
  const { events, status } = await stream.rest();
  before.push(...events);
  fragile.close();
  if (!goesOn) {
    await ended(service, stream.session); // a client that is back before its loss was noticed finds the turn running
  }

  const back = await Stream.resume(service, stream.session, told ? stream.lastSequence : undefined);
  const after = await back.say(turn);
  back.halfClose();
  await back.rest();
  const { turns } = await service.ask('listTurns', stream.session, { session: stream.session });
  return { retry: retryOf(status), status, opened: back.opened, before, after, turns };
}

async function ended(service, session) {
  const runs = async () => (await service.ask('listTurns', session, { session })).turns.some(({ endTime }) => !endTime);
  while (await runs()) {
    await pause(10);
  }
}

export async function reuse(service) {
  const stream = await fresh(service);
  const first = await stream.say({ turnId: 'one', text: 'hello', generation: SHORT });
  const again = await stream.say({ turnId: 'one', text: 'hello', generation: SHORT });
  const [other] = await stream.say({ turnId: 'one', text: 'good bye', generation: SHORT });
  stream.halfClose();
  await stream.rest();
  const { turns } = await service.ask('listTurns', stream.session, { session: stream.session });
  return { first, again, other: ofStatus(service, other.error), turns };
}

export async function takeOver(service) {
  const first = await fresh(service);
  first.send({ turn: { turnId: 'one', text: 'hello', generation: LONG } });
  const before = await first.until('delta');
  const second = await Stream.resume(service.at(service.address), first.session, first.lastSequence);
  const { status } = await first.rest();
  const after = await second.until('finished');
  second.halfClose();
  await second.rest();
  second.service.close();
  return { before, status, retry: retryOf(status), opened: second.opened, after };
}

export async function refusals(service) {
  const attempt = (work) => work.then((value) => ({ value }), (error) => ofCall(service, error));
  const stream = await fresh(service);
  const [turn] = await stream.say({ turnId: 't', text: 'hello', generation: { temperature: 11, topP: 2 } });
  stream.send({ turn: { turnId: 'endless', text: 'hello', generation: ENDLESS } });
  await stream.until('delta');
  for (let number = 0; number < 9; number += 1) {
    stream.send({ turn: { turnId: `${number}`, text: 'hello', noReply: true } });
  }
  const full = (await stream.until('rejected')).at(-1);
  stream.send({ open: { session: stream.session } });
  return {
    engine: await attempt(fresh(service, { engine: 'nothing' })),
    option: await attempt(fresh(service, { options: { windowTokens: -1 } })),
    unopened: await attempt(unopened(service)),
    missing: await attempt(service.ask('getSession', 'sessions/nowhere')),
    turn: ofStatus(service, turn.error),
    full: { turnId: full.turnId, ...ofStatus(service, full.error) },
    twice: (await stream.rest()).status,
  };
}

async function unopened(service) {
  const stream = new Stream(service, 'sessions/nobody');
  stream.send({ turn: { text: 'hello' } });
  return stream.next();
}

// The server stops in mid-turn and another one starts: what it refused goes there, what it ran does not run again.
export async function move(service) {
  const stream = await fresh(service);
  stream.send({ turn: { turnId: 'running', text: 'hello', generation: LONG } });
  const before = await stream.until('delta');
  process.stderr.write('running\n');
  before.push(...(await stream.until('goAway')));
  const late = { turnId: 'late', text: 'hello', generation: SHORT };
  stream.send({ turn: late });
  const { events, status } = await stream.rest();
  before.push(...events);
  const back = await again(service, stream, retryOf(status));
  const after = await back.say(late);
  back.halfClose();
  await back.rest();
  const { turns } = await service.ask('listTurns', stream.session, { session: stream.session });
  return { before, status, retry: retryOf(status), opened: back.opened, after, turns };
}

async function again(service, stream, retry) {
  const afterSequence = retry === 'reopen' ? undefined : stream.lastSequence;
  for (let waitMs = 100; ; waitMs = Math.min(2 * waitMs, 5000)) {
    try {
      return await Stream.resume(service, stream.session, afterSequence);
    } catch (error) {
      if (retryOf(ofCall(service, error)) === 'never') {
        throw error;
      }
      await pause(waitMs * (0.5 + Math.random() / 2));
    }
  }
}

export async function listen(service) {
  const stream = await fresh(service);
  const events = [await stream.next(), await stream.next()];
  const said = await stream.say({ turnId: 'one', text: 'hello', generation: SHORT });
  stream.send({ close: { deleteSession: true } });
  const { status } = await stream.rest();
  const gone = await service.ask('getSession', stream.session).catch((error) => ofCall(service, error));
  return { events, said, status, gone };
}

// Without streams of requests, as in a browser.
export async function callByCall(service) {
  const sessionId = randomUUID();
  const session = `sessions/${sessionId}`;
  const created = await service.ask('createSession', session, { newSession: { engine: 'demo', sessionId } });
  const run = (turn) => new Stream(service, session, service.runTurn(session, turn));
  const turn = { turnId: 'one', text: 'hello', generation: SHORT };
  const first = await run(turn).rest();
  const again = await run(turn).rest();
  const other = await run({ ...turn, text: 'good bye' }).rest();
  const endless = run({ turnId: 'endless', text: 'hello', generation: ENDLESS });
  await endless.until('delta');
  await service.ask('cancelTurn', session, { session, turnId: 'endless' });
  const cancelled = await endless.rest();
  const { turns } = await service.ask('listTurns', session, { session });
  return { created, first, again, other, cancelled, turns };
}
