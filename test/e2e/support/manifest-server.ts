// The web server from which the cluster gets weft.yaml, as users get it from a release page.
import { readFile } from 'node:fs/promises';
import { createServer } from 'node:http';

import { manifestPath } from '../../../deploy/generate.ts';
import { familiesOf, urlHost, type ClusterSettings } from '../cluster/settings.ts';

const port = 8000;
export function manifestUrl(settings: ClusterSettings): string {
  return `http://${urlHost(familiesOf(settings)[0].host)}:${port}/weft.yaml`;
}

/** Serves deploy/weft.yaml on the fabric: byte for byte, or where pods have IPv6 with the ranges in the ConfigMap. */
export async function serveManifest(cluster: ClusterSettings): Promise<AsyncDisposable> {
  const families = familiesOf(cluster);
  const settings = cluster.families === 'ipv4' ? {} : { ranges: families.map(({ pods }) => pods) };
  const server = createServer((request, response) => {
    if (request.url !== '/weft.yaml') {
      response.writeHead(404).end();
      return;
    }
    readFile(manifestPath, 'utf8').then(
      (text) =>
        response
          .writeHead(200, { 'content-type': 'application/yaml' })
          .end(text.replace(/^ {4}\{\}$/m, `    ${JSON.stringify(settings)}`)),
      (error: unknown) => response.writeHead(500).end(String(error)),
    );
  });
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject).listen(port, families[0].host, resolve);
  });
  return {
    async [Symbol.asyncDispose](): Promise<void> {
      server.closeAllConnections();
      await new Promise((resolve) => server.close(resolve));
    },
  };
}
