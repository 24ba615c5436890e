// A TCP relay whose connections can be cut, as networks do.

import { once } from 'node:events';
import { connect, createServer } from 'node:net';

export class Relay {
  static async to(target) {
    const relay = new Relay();
    const [host, port] = target.split(':');
    relay.sockets = [];
    relay.server = createServer((near) => {
      const far = connect(Number(port), host);
      for (const [from, into] of [[near, far], [far, near]]) {
        relay.sockets.push(from);
        from.on('error', () => into.destroy()).on('close', () => into.destroy()).pipe(into);
      }
    });
    await once(relay.server.listen(0, '127.0.0.1'), 'listening');
    relay.address = `127.0.0.1:${relay.server.address().port}`;
    return relay;
  }

  // Cuts every connection, and takes no more.
  cut() {
    this.server.close();
    this.sockets.forEach((socket) => socket.resetAndDestroy());
  }
}
