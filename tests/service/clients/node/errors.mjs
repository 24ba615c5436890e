// What an error says besides its code: google.rpc.Status with ErrorInfo, BadRequest and RetryInfo.

import { status as codes } from '@grpc/grpc-js';

const DETAILS = 'grpc-status-details-bin';
const DOMAIN = 'sinkserve';

// Of a call that failed: `error` is what grpc-js emits.
export function ofCall(service, error) {
  const [packed] = error.metadata?.get(DETAILS) ?? [];
  const found = packed ? ofStatus(service, service.decode('google.rpc.Status', packed)) : {};
  return { ...found, code: codes[error.code], message: error.details };
}

// Of a turn that was rejected or failed.
export function ofStatus(service, status) {
  const found = { code: codes[status.code], message: status.message };
  for (const { type_url: url, value } of status.details) {
    const name = url.slice(url.lastIndexOf('/') + 1);
    const detail = service.decode(name, value);
    if (name === 'google.rpc.ErrorInfo' && detail.domain === DOMAIN) {
      Object.assign(found, { reason: detail.reason, metadata: detail.metadata });
    } else if (name === 'google.rpc.BadRequest') {
      found.violations = detail.fieldViolations.map(({ field, description }) => ({ field, description }));
    } else if (name === 'google.rpc.RetryInfo') {
      found.retryAfterMs = Number(detail.retryDelay.seconds) * 1000 + detail.retryDelay.nanos / 1e6;
    }
  }
  return found;
}

// What to do by itself: send the 'same' again, 'reopen' without a sequence, or 'never'. Nothing runs twice.
export function retryOf({ code, metadata }) {
  const lost = ['UNAVAILABLE', 'INTERNAL', 'CANCELLED'].includes(code);
  return metadata?.retry ?? (lost ? 'same' : 'never'); // where no server said anything, the connection failed
}
