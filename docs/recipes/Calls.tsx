// The calls that live, as a React component.
import { useEffect, useState } from 'react';
import { BlackholeClient, type EventOf } from 'blackhole-events';

type Call = EventOf<'call.*.*'>['args'];

export function useCalls(url: string, token: string): Map<string, Call> {
  const [calls, setCalls] = useState(new Map<string, Call>());
  useEffect(() => {
    const client = new BlackholeClient(url, { token });
    const follow = async () => {
      for await (const message of client.watch(null, 'call.*.*', { state: true })) {
        if (message.action === 'present' && !message.complete) setCalls(new Map());
        if (message.action !== 'event') continue;
        setCalls((before) => {
          const after = new Map(before);
          const id = message.args['Call-ID'] ?? '';
          if (message.name === 'CHANNEL_DESTROY') after.delete(id);
          else after.set(id, message.args);
          return after;
        });
      }
    };
    follow().catch(console.error);
    return () => client.close();
  }, [url, token]);
  return calls;
}

export function Calls({ url, token }: { url: string; token: string }) {
  return (
    <ul>
      {[...useCalls(url, token)].map(([id, call]) => (
        <li key={id}>{call['Caller-ID-Name'] ?? call['Caller-ID-Number']}: {call['Event-Name']}</li>
      ))}
    </ul>
  );
}
