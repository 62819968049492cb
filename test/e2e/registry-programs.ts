// Where etcd, kube-apiserver and kubectl are: WEFT_E2E_BIN names a folder, else the cluster's programs, built when missing.

import { ensurePrograms } from './cluster/programs.ts';

export async function clusterPrograms(): Promise<string> {
  return process.env['WEFT_E2E_BIN'] ?? ensurePrograms((line) => console.log(line));
}
