// The addresses that the cluster gives to Services, so that no pod gets one: ServiceCIDR objects (Kubernetes >= 1.33) say it. Older
// clusters tell only the first address of the range, that of the Service `kubernetes`; the block is then taken as large as it can be.
import type { KubeAnswer, KubeApi } from '#agent/kubernetes/api.ts';
import { failure } from '#agent/kubernetes/list-watch.ts';
import { type Address, addressBits, parseAddress } from '#ipam-peer/address.ts';
import { type Cidr, parseCidr } from '#ipam-peer/cidr.ts';
import type { InUse } from '#ipam-peer/events.ts';

const serviceCidrsPath = '/apis/networking.k8s.io/v1/servicecidrs';
const kubernetesServicePath = '/api/v1/namespaces/default/services/kubernetes';
/** The API server admits no larger service range than 20 bits of addresses. */
const largestBits = 20;

/** Throws WeftError('registry') when the API server does not tell. */
export async function serviceRanges(api: KubeApi, signal: AbortSignal): Promise<readonly InUse[]> {
  const told = await api.call({ method: 'GET', path: serviceCidrsPath, query: { limit: '500' } }, signal);
  if (told.status === 200) {
    const ranges = fromServiceCidrs(told);
    // The API server makes the first ServiceCIDR a moment after its start; the Service is there as early.
    if (ranges.length > 0) return ranges;
  } else if (told.status !== 404 && told.status !== 403) throw failure('listing ServiceCIDRs', told);
  const service = await api.call({ method: 'GET', path: kubernetesServicePath }, signal);
  if (service.status !== 200) throw failure('reading the Service kubernetes', service);
  return fromFirstService(service);
}

function fromServiceCidrs({ body }: KubeAnswer): readonly InUse[] {
  const { items } = body as {
    readonly items?:
      | readonly {
          readonly metadata: { readonly name: string };
          readonly spec?: { readonly cidrs?: readonly string[] };
        }[]
      | null;
  };
  return (items ?? []).flatMap(({ metadata, spec }) =>
    (spec?.cidrs ?? []).flatMap((text) => {
      const cidr = parseCidr(text);
      return cidr === undefined ? [] : [{ cidr, by: `the service range of ServiceCIDR ${metadata.name}` }];
    }),
  );
}

function fromFirstService({ body }: KubeAnswer): readonly InUse[] {
  const { spec = {} } = body as { readonly spec?: { readonly clusterIP?: string; readonly clusterIPs?: string[] } };
  return (spec.clusterIPs ?? [spec.clusterIP ?? '']).flatMap((text) => {
    const address = parseAddress(text);
    if (address === undefined) return [];
    return [
      {
        cidr: largestFrom(address),
        by: `the service range, judging by ${text} of the Service kubernetes`,
        toldBy: address,
      },
    ];
  });
}

/** The largest block whose first address is the one before this. */
function largestFrom({ family, value }: Address): Cidr {
  const base = value - 1n;
  let bits = 1;
  while (bits < largestBits && base % (1n << BigInt(bits + 1)) === 0n) bits++;
  return { family, base, prefix: addressBits(family) - bits };
}
