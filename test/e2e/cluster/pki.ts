// Certificates and kubeconfigs of the test cluster, made by openssl: P-256 keys, two authorities, one certificate per component.
import { mkdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';

import { run } from './host.ts';
import { apiServerAddress, apiServerUrl, clusterDomain, familiesOf, type ClusterSettings } from './settings.ts';

const clients: Readonly<Record<string, string>> = {
  admin: '/O=system:masters/CN=admin',
  'controller-manager': '/CN=system:kube-controller-manager',
  scheduler: '/CN=system:kube-scheduler',
  'kube-proxy': '/CN=system:kube-proxy',
};

/** Makes every key, certificate and kubeconfig of the control plane in `directory`. */
export async function makeClusterKeys(directory: string, settings: ClusterSettings): Promise<void> {
  await mkdir(directory, { recursive: true, mode: 0o700 });
  const key = join(directory, 'sa.key');
  await Promise.all([
    makeAuthority(directory, 'ca'),
    makeAuthority(directory, 'front-proxy-ca'),
    run(['openssl', 'genpkey', '-algorithm', 'EC', '-pkeyopt', 'ec_paramgen_curve:P-256', '-out', key]),
  ]);
  await run(['openssl', 'pkey', '-in', key, '-pubout', '-out', join(directory, 'sa.pub')]);
  const names = ['', '.default', '.default.svc', `.default.svc.${clusterDomain}`].map((end) => `DNS:kubernetes${end}`);
  const services = familiesOf(settings).map(({ kubernetesService }) => kubernetesService);
  const addresses = [...services, apiServerAddress(settings), '127.0.0.1'].map((address) => `IP:${address}`);
  await Promise.all([
    makeCertificate(directory, 'ca', 'apiserver', '/CN=kube-apiserver', [...names, ...addresses]),
    makeCertificate(directory, 'ca', 'apiserver-kubelet', '/O=system:masters/CN=apiserver-kubelet'),
    makeCertificate(directory, 'front-proxy-ca', 'front-proxy', '/CN=front-proxy'),
    ...Object.entries(clients).map(([name, subject]) => makeClient(directory, name, subject, settings)),
  ]);
}

/** A kubelet's client certificate and kubeconfig, `kubelet-NODE.kubeconfig`. */
export async function makeKubeletKeys(directory: string, node: string, settings: ClusterSettings): Promise<void> {
  await makeClient(directory, `kubelet-${node}`, `/O=system:nodes/CN=system:node:${node}`, settings);
}

async function makeAuthority(directory: string, name: string): Promise<void> {
  const [key, certificate] = [join(directory, `${name}.key`), join(directory, `${name}.crt`)];
  await run(
    `openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 3650 -subj /CN=${name}`
      .split(' ')
      .concat('-keyout', key, '-out', certificate),
  );
}

async function makeCertificate(
  directory: string,
  authority: string,
  name: string,
  subject: string,
  alternativeNames: readonly string[] = [],
): Promise<void> {
  const at = (file: string): string => join(directory, file);
  const names = [
    'extendedKeyUsage=serverAuth,clientAuth',
    ...(alternativeNames.length === 0 ? [] : [`subjectAltName=${alternativeNames.join(',')}`]),
  ];
  const extensions = ['basicConstraints=critical,CA:FALSE', 'keyUsage=critical,digitalSignature', ...names];
  await run(
    'openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 3650'
      .split(' ')
      .concat('-CA', at(`${authority}.crt`), '-CAkey', at(`${authority}.key`), '-subj', subject)
      .concat(extensions.flatMap((extension) => ['-addext', extension]))
      .concat('-keyout', at(`${name}.key`), '-out', at(`${name}.crt`)),
  );
}

async function makeClient(directory: string, name: string, subject: string, settings: ClusterSettings): Promise<void> {
  await makeCertificate(directory, 'ca', name, subject);
  const base64 = async (file: string): Promise<string> => (await readFile(join(directory, file))).toString('base64');
  const kubeconfig = {
    apiVersion: 'v1',
    kind: 'Config',
    'current-context': 'test',
    contexts: [{ name: 'test', context: { cluster: 'test', user: name } }],
    clusters: [
      {
        name: 'test',
        cluster: { server: apiServerUrl(settings), 'certificate-authority-data': await base64('ca.crt') },
      },
    ],
    users: [
      {
        name,
        user: {
          'client-certificate-data': await base64(`${name}.crt`),
          'client-key-data': await base64(`${name}.key`),
        },
      },
    ],
  };
  await writeFile(join(directory, `${name}.kubeconfig`), JSON.stringify(kubeconfig, undefined, 1), { mode: 0o600 });
}
