// The bill of materials of the image, SPDX 2.3 as JSON: `node deploy/sbom.ts PACKAGES DEBIAN OUTPUT`. PACKAGES is what
// deploy/bundle.ts wrote of the npm packages that are in the bundle; DEBIAN has one line for each Debian package, `name version
// architecture`. Node.js, the C library of the shim and the loopback plugin are named here, where the Dockerfile gets them.
import { createHash } from 'node:crypto';
import { readFile, writeFile } from 'node:fs/promises';

import manifest from '../package.json' with { type: 'json' };

export interface Component {
  readonly name: string;
  readonly version: string;
  /** SPDX expression; undefined where the package's own copyright file says it. */
  readonly license?: string;
  /** Package URL. */
  readonly purl: string;
}

/** A document about `components`. The same components give the same document but for `createdAt`. */
export function spdxDocument(components: readonly Component[], createdAt: Date): unknown {
  const digest = createHash('sha256').update(JSON.stringify(components)).digest('hex');
  const root = { name: 'weft', version: manifest.version, license: manifest.license, purl: '' };
  const all = [root, ...components].map(spdxPackage);
  return {
    spdxVersion: 'SPDX-2.3',
    dataLicense: 'CC0-1.0',
    SPDXID: 'SPDXRef-DOCUMENT',
    name: `weft-${manifest.version}`,
    documentNamespace: `https://weft.network/spdx/weft-${manifest.version}-${digest.slice(0, 32)}`,
    creationInfo: { created: createdAt.toISOString().replace(/\.\d+Z$/, 'Z'), creators: ['Tool: weft deploy/sbom.ts'] },
    packages: all,
    relationships: all.map(({ SPDXID: id }, index) =>
      index === 0
        ? { spdxElementId: 'SPDXRef-DOCUMENT', relationshipType: 'DESCRIBES', relatedSpdxElement: id }
        : { spdxElementId: 'SPDXRef-Package-0', relationshipType: 'CONTAINS', relatedSpdxElement: id },
    ),
  };
}

interface SpdxPackage {
  readonly SPDXID: string;
  readonly [field: string]: unknown;
}

function spdxPackage({ name, version, license, purl }: Component, index: number): SpdxPackage {
  const reference = { referenceCategory: 'PACKAGE-MANAGER', referenceType: 'purl', referenceLocator: purl };
  return {
    SPDXID: `SPDXRef-Package-${index}`,
    name,
    versionInfo: version,
    downloadLocation: 'NOASSERTION',
    filesAnalyzed: false,
    licenseConcluded: 'NOASSERTION',
    licenseDeclared: license ?? 'NOASSERTION',
    copyrightText: 'NOASSERTION',
    ...(purl !== '' && { externalRefs: [reference] }),
  };
}

/** Components of the three sources. Throws when a line of `debian` is none. */
export function componentsOf(
  npm: readonly { readonly name: string; readonly version: string; readonly license: string }[],
  debian: string,
  others: readonly Component[],
): readonly Component[] {
  const lines = debian.split('\n').filter((line) => line !== '');
  return [
    ...npm.map(({ name, version, license }) => ({
      name,
      version,
      license,
      purl: `pkg:npm/${name.replace('@', '%40')}@${version}`,
    })),
    ...lines.map((line) => {
      const [name, version, architecture] = line.split(' ');
      if (name === undefined || version === undefined || architecture === undefined)
        throw new Error(`not "name version architecture": ${line}`);
      return { name, version, purl: `pkg:deb/debian/${name}@${encodeURIComponent(version)}?arch=${architecture}` };
    }),
    ...others,
  ];
}

if (import.meta.main) {
  const [packages = '', debian = '', output = '', loopback = ''] = process.argv.slice(2);
  const npm = JSON.parse(await readFile(packages, 'utf8')) as readonly {
    readonly name: string;
    readonly version: string;
    readonly license: string;
  }[];
  const node = process.versions.node;
  const others: readonly Component[] = [
    { name: 'node', version: node, license: 'MIT', purl: `pkg:generic/node@${node}` },
    {
      name: 'github.com/containernetworking/plugins',
      version: loopback,
      license: 'Apache-2.0',
      purl: `pkg:golang/github.com/containernetworking/plugins@${loopback}`,
    },
  ];
  const components = componentsOf(npm, await readFile(debian, 'utf8'), others);
  await writeFile(output, `${JSON.stringify(spdxDocument(components, new Date()), undefined, 1)}\n`);
}
