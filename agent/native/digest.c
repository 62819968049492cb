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
#include <stdlib.h>
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

// Data of kinds other than vxlan are left out: those of a bridge have timers.
static bool has_name(const struct rtattr *attribute, const char *name) {
  return RTA_PAYLOAD(attribute) == strlen(name) + 1 && memcmp(RTA_DATA(attribute), name, strlen(name) + 1) == 0;
}

static void hash_link_info(uint64_t *state, const struct rtattr *info) {
  bool is_vxlan = false; // the kind comes before its data
  int left = (int)RTA_PAYLOAD(info);
  for (const struct rtattr *part = RTA_DATA(info); RTA_OK(part, left); part = RTA_NEXT(part, left)) {
    if (kind_of(part) == IFLA_INFO_KIND) is_vxlan = has_name(part, "vxlan");
    if (kind_of(part) == IFLA_INFO_KIND || (kind_of(part) == IFLA_INFO_DATA && is_vxlan)) hash_attribute(state, part);
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

struct digest {
  struct exchange exchange; // its request is one dump after the other
  uint64_t state;
  napi_async_work work;
  napi_deferred deferred;
};

// Takes in a datagram. True when the dump is over; what cannot be counted is a failure.
static bool take(struct digest *digest, uint32_t sequence, const uint8_t *data, size_t length) {
  int left = (int)length;
  for (const struct nlmsghdr *header = (const struct nlmsghdr *)data; NLMSG_OK(header, left); header = NLMSG_NEXT(header, left)) {
    if (header->nlmsg_seq != sequence) continue;
    if (header->nlmsg_flags & NLM_F_DUMP_INTR) digest->exchange.failure = (struct failure){EINTR, "dump"};
    if (header->nlmsg_type == NLMSG_ERROR) {
      int error = -((const struct nlmsgerr *)NLMSG_DATA(header))->error;
      digest->exchange.failure = (struct failure){error == 0 ? EPROTO : error, "dump"};
    } else if (header->nlmsg_type == NLMSG_DONE) {
      int error = NLMSG_PAYLOAD(header, 0) >= sizeof(int) ? -*(const int *)NLMSG_DATA(header) : 0;
      if (error > 0) digest->exchange.failure = (struct failure){error, "dump"};
    } else {
      if (!hash_message(&digest->state, header)) digest->exchange.failure = (struct failure){EPROTO, "dump"};
      continue;
    }
    return true;
  }
  return false;
}

static void run_dump(struct digest *digest, const struct nlmsghdr *request) {
  struct exchange *exchange = &digest->exchange;
  exchange->request = (const uint8_t *)request;
  exchange->request_length = request->nlmsg_len;
  if (!send_request(exchange)) return;
  int64_t deadline = 0;
  size_t fresh;
  while (receive_one(exchange, &fresh, &deadline)) {
    if (take(digest, request->nlmsg_seq, exchange->reply, fresh)) return;
  }
}

static void execute(napi_env env, void *data) {
  (void)env;
  struct digest *digest = data;
  const uint8_t *requests = digest->exchange.request;
  int left = (int)digest->exchange.request_length;
  for (const struct nlmsghdr *request = (const struct nlmsghdr *)requests; NLMSG_OK(request, left); request = NLMSG_NEXT(request, left)) {
    run_dump(digest, request);
    if (digest->exchange.failure.number != 0) break;
    hash(&digest->state, "", 1); // an object that moves from one dump's end to the next one's beginning
  }
  digest->exchange.request = requests;
}

static void complete(napi_env env, napi_status status, void *data) {
  struct digest *digest = data;
  napi_value result;
  if (status == napi_cancelled) digest->exchange.failure = (struct failure){ECANCELED, "netlinkDigest"};
  if (digest->exchange.failure.number != 0) {
    napi_reject_deferred(env, digest->deferred, failure_value(env, digest->exchange.failure));
  } else {
    napi_create_bigint_uint64(env, digest->state, &result);
    napi_resolve_deferred(env, digest->deferred, result);
  }
  napi_delete_async_work(env, digest->work);
  free((void *)digest->exchange.request);
  free(digest->exchange.reply);
  free(digest);
}

// netlinkDigest(fd, buffer, length, timeoutMs) -> Promise<bigint>; the buffer holds dump requests, whose bytes are copied before it
// returns. Rejects with EINTR where a change cut a dump, with EPROTO where there is something else than links, addresses, routes,
// nexthops and neighbours.
static napi_value digest_dumps(napi_env env, napi_callback_info info) {
  napi_value arguments[4], promise, name;
  int64_t fd, length, timeout;
  uint8_t *data;
  size_t available;
  if (!read_arguments(env, info, 4, arguments) || !read_int(env, arguments[0], &fd) || !read_bytes(env, arguments[1], &data, &available) ||
      !read_int(env, arguments[2], &length) || !read_int(env, arguments[3], &timeout))
    return NULL;
  if (length < 0 || (size_t)length > available) {
    napi_throw_range_error(env, NULL, "weft addon: the length is beyond the buffer's end");
    return NULL;
  }
  struct digest *digest = calloc(1, sizeof *digest);
  uint8_t *copy = malloc((size_t)length + 1);
  if (digest == NULL || copy == NULL) {
    free(digest);
    free(copy);
    return throw_failure(env, (struct failure){ENOMEM, "malloc"});
  }
  memcpy(copy, data, (size_t)length);
  digest->exchange = (struct exchange){.fd = (int)fd, .timeout_ms = (int)timeout, .request = copy, .request_length = (size_t)length};
  digest->state = HASH_BASIS;
  napi_create_promise(env, &digest->deferred, &promise);
  napi_create_string_utf8(env, "weft.digest", NAPI_AUTO_LENGTH, &name);
  napi_create_async_work(env, NULL, name, execute, complete, digest, &digest->work);
  napi_queue_async_work(env, digest->work);
  return promise;
}

void init_digest(napi_env env, napi_value exports) {
  static const struct function functions[] = {{"netlinkDigest", digest_dumps}};
  add_functions(env, exports, functions, sizeof functions / sizeof functions[0]);
}
