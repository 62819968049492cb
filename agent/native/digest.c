// Whether anything has changed since last time, without telling what: dumps of rtnetlink are read on a pool thread and come to one
// number. Nothing of them reaches JavaScript, so that a look at thousands of objects leaves no garbage.
//
// Left out is what changes by itself: times, counters, timers of bridges; of links everything but what the agent sets or looks at.
#include "exchange.h"

#include <errno.h>
#include <linux/if_addr.h>
#include <linux/if_link.h>
#include <linux/neighbour.h>
#include <linux/netlink.h>
#include <linux/nexthop.h>
#include <linux/rtnetlink.h>
#include <string.h>
#include <sys/socket.h>

// FNV-1a, 64 bits.
#define HASH_BASIS 14695981039346656037ull
#define HASH_PRIME 1099511628211ull

static void hash(uint64_t *state, const void *data, size_t length) {
  for (const uint8_t *at = data, *end = at + length; at < end; at++) *state = (*state ^ *at) * HASH_PRIME;
}

static int kind_of(const struct rtattr *attribute) { return attribute->rta_type & NLA_TYPE_MASK; }

// The attribute with its header, without the padding behind it.
static void hash_attribute(uint64_t *state, const struct rtattr *attribute) { hash(state, attribute, attribute->rta_len); }

typedef void (*attribute_reader)(uint64_t *state, const struct rtattr *attribute);

static void each_attribute(uint64_t *state, const void *data, size_t length, attribute_reader read) {
  int left = (int)length;
  for (const struct rtattr *attribute = data; RTA_OK(attribute, left); attribute = RTA_NEXT(attribute, left)) read(state, attribute);
}

static void each_inside(uint64_t *state, const struct rtattr *attribute, attribute_reader read) {
  each_attribute(state, RTA_DATA(attribute), RTA_PAYLOAD(attribute), read);
}

static bool has_name(const struct rtattr *attribute, const char *name) {
  return RTA_PAYLOAD(attribute) == strlen(name) + 1 && memcmp(RTA_DATA(attribute), name, strlen(name) + 1) == 0;
}

// Data of kinds other than vxlan are left out: those of a bridge have timers.
// What bridge-io.ts sets or looks at; a bridge and its ports have timers and counters beside it.
static void hash_bridge_option(uint64_t *state, const struct rtattr *option) {
  switch (kind_of(option)) {
    case IFLA_BR_STP_STATE:
    case IFLA_BR_MCAST_SNOOPING:
    case IFLA_BR_NF_CALL_IPTABLES:
    case IFLA_BR_NF_CALL_IP6TABLES: hash_attribute(state, option); break;
  }
}

static void hash_port_option(uint64_t *state, const struct rtattr *option) {
  switch (kind_of(option)) {
    case IFLA_BRPORT_STATE:
    case IFLA_BRPORT_MODE:
    case IFLA_BRPORT_LEARNING:
    case IFLA_BRPORT_UNICAST_FLOOD:
    case IFLA_BRPORT_MCAST_FLOOD:
    case IFLA_BRPORT_BCAST_FLOOD:
    case IFLA_BRPORT_NEIGH_SUPPRESS:
    case IFLA_BRPORT_ISOLATED: hash_attribute(state, option); break;
  }
}

// A kind comes before its data. Data of kinds that are none of ours are left out.
static void hash_link_info(uint64_t *state, const struct rtattr *info) {
  bool is_vxlan = false, is_bridge = false, is_port = false;
  int left = (int)RTA_PAYLOAD(info);
  for (const struct rtattr *part = RTA_DATA(info); RTA_OK(part, left); part = RTA_NEXT(part, left)) {
    switch (kind_of(part)) {
      case IFLA_INFO_KIND:
        is_vxlan = has_name(part, "vxlan");
        is_bridge = has_name(part, "bridge");
        hash_attribute(state, part);
        break;
      case IFLA_INFO_DATA:
        if (is_vxlan) hash_attribute(state, part);
        if (is_bridge) each_inside(state, part, hash_bridge_option);
        break;
      case IFLA_INFO_SLAVE_KIND:
        is_port = has_name(part, "bridge");
        hash_attribute(state, part);
        break;
      case IFLA_INFO_SLAVE_DATA:
        if (is_port) each_inside(state, part, hash_port_option);
        break;
    }
  }
}

static void hash_inet6_part(uint64_t *state, const struct rtattr *part) {
  if (kind_of(part) == IFLA_INET6_CONF || kind_of(part) == IFLA_INET6_ADDR_GEN_MODE) hash_attribute(state, part);
}

static void hash_family_part(uint64_t *state, const struct rtattr *part) {
  if (kind_of(part) == AF_INET) hash_attribute(state, part);
  if (kind_of(part) == AF_INET6) each_inside(state, part, hash_inet6_part);
}

static void hash_link_attribute(uint64_t *state, const struct rtattr *attribute) {
  switch (kind_of(attribute)) {
    case IFLA_ADDRESS:
    case IFLA_IFNAME:
    case IFLA_MTU:
    case IFLA_MASTER:
    case IFLA_IFALIAS:
    case IFLA_GROUP: hash_attribute(state, attribute); break;
    case IFLA_LINKINFO: hash_link_info(state, attribute); break;
    case IFLA_AF_SPEC: each_inside(state, attribute, hash_family_part); break;
  }
}

static void hash_address_attribute(uint64_t *state, const struct rtattr *attribute) {
  if (kind_of(attribute) != IFA_CACHEINFO) hash_attribute(state, attribute);
}

static void hash_route_attribute(uint64_t *state, const struct rtattr *attribute) {
  if (kind_of(attribute) != RTA_CACHEINFO && kind_of(attribute) != RTA_EXPIRES) hash_attribute(state, attribute);
}

static void hash_neighbour_attribute(uint64_t *state, const struct rtattr *attribute) {
  if (kind_of(attribute) != NDA_CACHEINFO && kind_of(attribute) != NDA_PROBES) hash_attribute(state, attribute);
}

static const struct family {
  uint16_t type;
  size_t header_bytes;
  attribute_reader read;
} families[] = {
    {RTM_NEWLINK, sizeof(struct ifinfomsg), hash_link_attribute},
    {RTM_NEWADDR, sizeof(struct ifaddrmsg), hash_address_attribute},
    {RTM_NEWROUTE, sizeof(struct rtmsg), hash_route_attribute},
    {RTM_NEWNEIGH, sizeof(struct ndmsg), hash_neighbour_attribute},
    {RTM_NEWNEXTHOP, sizeof(struct nhmsg), hash_attribute},
};

static bool hash_message(uint64_t *state, const struct nlmsghdr *header) {
  for (size_t at = 0; at < sizeof families / sizeof families[0]; at++) {
    const struct family *family = &families[at];
    if (family->type != header->nlmsg_type || NLMSG_PAYLOAD(header, 0) < family->header_bytes) continue;
    const uint8_t *body = NLMSG_DATA(header);
    size_t begin = NLMSG_ALIGN(family->header_bytes);
    hash(state, &header->nlmsg_type, sizeof header->nlmsg_type);
    hash(state, body, family->header_bytes);
    if (NLMSG_PAYLOAD(header, 0) > begin) each_attribute(state, body + begin, NLMSG_PAYLOAD(header, 0) - begin, family->read);
    return true;
  }
  return false;
}

// Takes in a datagram. True when the dump is over; what cannot be counted is a failure.
static bool take(struct job *job, uint32_t sequence, const uint8_t *data, size_t length) {
  int left = (int)length;
  for (const struct nlmsghdr *header = (const struct nlmsghdr *)data; NLMSG_OK(header, left); header = NLMSG_NEXT(header, left)) {
    if (header->nlmsg_seq != sequence) continue;
    if (header->nlmsg_flags & NLM_F_DUMP_INTR) job->exchange.failure = (struct failure){EINTR, "dump"};
    if (header->nlmsg_type == NLMSG_ERROR) {
      int error = -((const struct nlmsgerr *)NLMSG_DATA(header))->error;
      job->exchange.failure = (struct failure){error == 0 ? EPROTO : error, "dump"};
    } else if (header->nlmsg_type == NLMSG_DONE) {
      int error = NLMSG_PAYLOAD(header, 0) >= sizeof(int) ? -*(const int *)NLMSG_DATA(header) : 0;
      if (error > 0) job->exchange.failure = (struct failure){error, "dump"};
    } else {
      if (!hash_message(&job->digest, header)) job->exchange.failure = (struct failure){EPROTO, "dump"};
      continue;
    }
    return true;
  }
  return false;
}

static void run_dump(struct job *job, const struct nlmsghdr *request) {
  struct exchange *exchange = &job->exchange;
  exchange->request = (const uint8_t *)request;
  exchange->request_length = request->nlmsg_len;
  if (!send_request(exchange)) return;
  int64_t deadline = 0;
  size_t fresh;
  while (receive_one(exchange, &fresh, &deadline)) {
    if (take(job, request->nlmsg_seq, exchange->reply, fresh)) return;
  }
}

// The request is one dump after the other.
static void run_dumps(struct job *job) {
  job->digest = HASH_BASIS;
  int left = (int)job->exchange.request_length;
  const struct nlmsghdr *request = (const struct nlmsghdr *)job->exchange.request;
  for (; NLMSG_OK(request, left); request = NLMSG_NEXT(request, left)) {
    run_dump(job, request);
    if (job->exchange.failure.number != 0) return;
    hash(&job->digest, "", 1); // an object that moves from one dump's end to the next one's beginning
  }
}

static napi_value digest_of(napi_env env, const struct job *job) {
  napi_value result;
  napi_create_bigint_uint64(env, job->digest, &result);
  return result;
}

// netlinkDigest(fd, buffer, length, timeoutMs) -> Promise<bigint>; the buffer holds dump requests, whose bytes are copied before it
// returns. Rejects with EINTR where a change cut a dump, with EPROTO where there is something else than links, addresses, routes,
// nexthops and neighbours.
static napi_value digest_dumps(napi_env env, napi_callback_info info) {
  napi_value arguments[4];
  struct exchange exchange;
  if (!read_arguments(env, info, 4, arguments) || !read_request(env, arguments, arguments[3], &exchange)) return NULL;
  return promise_job(env, "netlinkDigest", &exchange, run_dumps, digest_of);
}

void init_digest(napi_env env, napi_value exports) {
  static const struct function functions[] = {{"netlinkDigest", digest_dumps}};
  add_functions(env, exports, functions, sizeof functions / sizeof functions[0]);
}
