// ICMP echo for the probes between peers: a raw socket per family that sends and hears echoes with the fragmentation bit as asked,
// and a packet socket that sends an echo to a given link address, past the routing table. The kernel stamps what arrives, and what
// is sent carries its time of sending, so round trips are exact however late JavaScript looks.
//
//   echo: | ICMP header, id, sequence | time of sending, 8 bytes, ns, big endian | the caller's payload |
//
// A record of probeReceive, all integers in host byte order:
//   | u32 length of all | u32 ifindex | u64 arrival ns | u64 sending ns | source, 16 bytes | u16 id | u16 sequence | u32 isReply | payload, padded to 8 |
#include "weft.h"

#include <arpa/inet.h>
#include <errno.h>
#include <linux/icmp.h>
#include <linux/if_packet.h>
#include <net/ethernet.h>
#include <netinet/icmp6.h>
#include <netinet/in.h>
#include <netinet/ip.h>
#include <netinet/ip6.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define STAMP_BYTES 8
#define ICMP_BYTES 8
#define PACKET_ROOM 65536
#define KEPT_PAYLOAD 64
#define RECORD_HEADER 48

struct opening {
  int family;
  int fd;
  struct failure failure;
};

static bool set_option(struct opening *opening, int level, int name, const void *value, socklen_t length) {
  if (setsockopt(opening->fd, level, name, value, length) == 0) return true;
  opening->failure = (struct failure){errno, "setsockopt"};
  close(opening->fd);
  opening->fd = -1;
  return false;
}

static void open_icmp(void *argument) {
  struct opening *opening = argument;
  bool six = opening->family == AF_INET6;
  opening->fd = socket(opening->family, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, six ? (int)IPPROTO_ICMPV6 : (int)IPPROTO_ICMP);
  if (opening->fd < 0) {
    opening->failure = (struct failure){errno, "socket"};
    return;
  }
  int on = 1, room = 1 << 20, discover = six ? IPV6_PMTUDISC_PROBE : IP_PMTUDISC_PROBE;
  if (setsockopt(opening->fd, SOL_SOCKET, SO_RCVBUFFORCE, &room, sizeof room) != 0)
    setsockopt(opening->fd, SOL_SOCKET, SO_RCVBUF, &room, sizeof room);
  if (!set_option(opening, SOL_SOCKET, SO_TIMESTAMPNS, &on, sizeof on)) return;
  if (six) {
    struct icmp6_filter filter;
    ICMP6_FILTER_SETBLOCKALL(&filter);
    ICMP6_FILTER_SETPASS(ICMP6_ECHO_REQUEST, &filter);
    ICMP6_FILTER_SETPASS(ICMP6_ECHO_REPLY, &filter);
    if (!set_option(opening, IPPROTO_ICMPV6, ICMP6_FILTER, &filter, sizeof filter)) return;
    if (!set_option(opening, IPPROTO_IPV6, IPV6_RECVPKTINFO, &on, sizeof on)) return;
    if (!set_option(opening, IPPROTO_IPV6, IPV6_DONTFRAG, &on, sizeof on)) return;
    set_option(opening, IPPROTO_IPV6, IPV6_MTU_DISCOVER, &discover, sizeof discover);
  } else {
    struct icmp_filter filter = {~((1u << ICMP_ECHO) | (1u << ICMP_ECHOREPLY))};
    if (!set_option(opening, SOL_RAW, ICMP_FILTER, &filter, sizeof filter)) return;
    if (!set_option(opening, IPPROTO_IP, IP_PKTINFO, &on, sizeof on)) return;
    set_option(opening, IPPROTO_IP, IP_MTU_DISCOVER, &discover, sizeof discover);
  }
}

// Protocol 0: it sends only, and the kernel copies nothing to it.
static void open_packet(void *argument) {
  struct opening *opening = argument;
  opening->fd = socket(AF_PACKET, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (opening->fd < 0) opening->failure = (struct failure){errno, "socket"};
}

// probeOpen(family: 4 | 6 | 0 for the packet socket, netnsPath | null) -> fd
static napi_value probe_open(napi_env env, napi_callback_info info) {
  napi_value arguments[2], result;
  int64_t family;
  char *path;
  if (!read_arguments(env, info, 2, arguments) || !read_int(env, arguments[0], &family) || !read_string(env, arguments[1], &path))
    return NULL;
  struct opening opening = {.family = family == 6 ? AF_INET6 : AF_INET, .fd = -1, .failure = {0, ""}};
  struct failure failure = {0, ""};
  bool entered = in_netns(path, family == 0 ? open_packet : open_icmp, &opening, &failure);
  free(path);
  if (!entered) return throw_failure(env, failure);
  if (opening.fd < 0) return throw_failure(env, opening.failure);
  napi_create_int32(env, opening.fd, &result);
  return result;
}

static uint32_t sum(const uint8_t *data, size_t length, uint32_t total) {
  for (size_t i = 0; i + 1 < length; i += 2) total += (uint32_t)data[i] << 8 | data[i + 1];
  if (length % 2 == 1) total += (uint32_t)data[length - 1] << 8;
  return total;
}

static uint16_t folded(uint32_t total) {
  while (total >> 16) total = (total & 0xffff) + (total >> 16);
  return htons((uint16_t)~total);
}

static uint64_t now_ns(void) {
  struct timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

struct echo {
  bool six;
  struct in6_addr to, source; // the first 4 bytes for IPv4
  uint16_t id, sequence;
  const uint8_t *payload;
  size_t length;
};

// Writes the ICMP message; its checksum only where `whole` (the kernel fills in ICMPv6's on a raw socket). Returns its length.
static size_t write_icmp(const struct echo *echo, uint8_t *out, bool whole) {
  size_t length = ICMP_BYTES + STAMP_BYTES + echo->length;
  uint16_t id = htons(echo->id), sequence = htons(echo->sequence);
  uint64_t stamp = now_ns();
  memset(out, 0, ICMP_BYTES);
  out[0] = echo->six ? ICMP6_ECHO_REQUEST : ICMP_ECHO;
  memcpy(out + 4, &id, 2);
  memcpy(out + 6, &sequence, 2);
  for (int i = 0; i < STAMP_BYTES; i++) out[ICMP_BYTES + i] = (uint8_t)(stamp >> (8 * (7 - i)));
  memcpy(out + ICMP_BYTES + STAMP_BYTES, echo->payload, echo->length);
  uint32_t total = 0;
  if (echo->six) {
    if (!whole) return length;
    total = sum(echo->source.s6_addr, 16, sum(echo->to.s6_addr, 16, (uint32_t)length + IPPROTO_ICMPV6));
  }
  uint16_t check = folded(sum(out, length, total));
  memcpy(out + 2, &check, 2);
  return length;
}

static size_t write_ip(const struct echo *echo, uint8_t *out, size_t icmp_length) {
  if (echo->six) {
    struct ip6_hdr header = {.ip6_src = echo->source, .ip6_dst = echo->to};
    header.ip6_flow = htonl(6u << 28);
    header.ip6_plen = htons((uint16_t)icmp_length);
    header.ip6_nxt = IPPROTO_ICMPV6;
    header.ip6_hlim = 64;
    memcpy(out, &header, sizeof header);
    return sizeof header;
  }
  struct iphdr header = {.version = 4, .ihl = 5, .ttl = 64, .protocol = IPPROTO_ICMP};
  header.tot_len = htons((uint16_t)(sizeof header + icmp_length));
  header.frag_off = htons(IP_DF);
  memcpy(&header.saddr, &echo->source, 4);
  memcpy(&header.daddr, &echo->to, 4);
  memcpy(out, &header, sizeof header);
  uint16_t check = folded(sum(out, sizeof header, 0));
  memcpy(out + offsetof(struct iphdr, check), &check, 2);
  return sizeof header;
}

static bool read_address(napi_env env, napi_value value, bool six, struct in6_addr *address) {
  char *text;
  if (!read_string(env, value, &text)) return false;
  memset(address, 0, sizeof *address);
  bool good = text != NULL && inet_pton(six ? AF_INET6 : AF_INET, text, address) == 1;
  free(text);
  if (!good) napi_throw_type_error(env, NULL, "weft addon: an address of the family was expected");
  return good;
}

// to, source, id, sequence, payload
static bool read_echo(napi_env env, napi_value *arguments, struct echo *echo) {
  int64_t id, sequence;
  uint8_t *payload;
  if (!read_address(env, arguments[0], echo->six, &echo->to) || !read_address(env, arguments[1], echo->six, &echo->source) ||
      !read_int(env, arguments[2], &id) || !read_int(env, arguments[3], &sequence) ||
      !read_bytes(env, arguments[4], &payload, &echo->length))
    return false;
  echo->id = (uint16_t)id;
  echo->sequence = (uint16_t)sequence;
  echo->payload = payload;
  if (echo->length <= PACKET_ROOM - 256) return true;
  napi_throw_type_error(env, NULL, "weft addon: the payload is too long");
  return false;
}

static napi_value send_result(napi_env env, ssize_t sent) {
  napi_value result;
  napi_create_int32(env, sent < 0 ? errno : 0, &result);
  return result;
}

// probeSend(fd, family, to, source, id, sequence, payload) -> 0 or errno
static napi_value probe_send(napi_env env, napi_callback_info info) {
  napi_value arguments[7];
  int64_t fd, family;
  if (!read_arguments(env, info, 7, arguments) || !read_int(env, arguments[0], &fd) || !read_int(env, arguments[1], &family)) return NULL;
  struct echo echo = {.six = family == 6};
  if (!read_echo(env, arguments + 2, &echo)) return NULL;
  static uint8_t packet[PACKET_ROOM];
  struct iovec data = {packet, write_icmp(&echo, packet, !echo.six)};
  struct sockaddr_in to4 = {.sin_family = AF_INET};
  struct sockaddr_in6 to6 = {.sin6_family = AF_INET6, .sin6_addr = echo.to};
  memcpy(&to4.sin_addr, &echo.to, 4);
  union {
    char bytes[CMSG_SPACE(sizeof(struct in6_pktinfo))];
    struct cmsghdr align;
  } control = {0};
  struct msghdr message = {.msg_iov = &data, .msg_iovlen = 1, .msg_control = &control};
  message.msg_name = echo.six ? (void *)&to6 : (void *)&to4;
  message.msg_namelen = echo.six ? sizeof to6 : sizeof to4;
  struct in_pktinfo from4 = {0};
  memcpy(&from4.ipi_spec_dst, &echo.source, 4);
  struct in6_pktinfo from6 = {.ipi6_addr = echo.source};
  size_t length = echo.six ? sizeof from6 : sizeof from4;
  message.msg_controllen = CMSG_SPACE(length);
  struct cmsghdr *header = CMSG_FIRSTHDR(&message);
  header->cmsg_level = echo.six ? IPPROTO_IPV6 : IPPROTO_IP;
  header->cmsg_type = echo.six ? IPV6_PKTINFO : IP_PKTINFO;
  header->cmsg_len = CMSG_LEN(length);
  memcpy(CMSG_DATA(header), echo.six ? (void *)&from6 : (void *)&from4, length);
  return send_result(env, sendmsg((int)fd, &message, 0));
}

static bool read_mac(napi_env env, napi_value value, uint8_t *mac) {
  char *text;
  if (!read_string(env, value, &text)) return false;
  unsigned int part[6];
  bool good = text != NULL && sscanf(text, "%x:%x:%x:%x:%x:%x", &part[0], &part[1], &part[2], &part[3], &part[4], &part[5]) == 6;
  for (int i = 0; good && i < 6; i++) mac[i] = (uint8_t)part[i];
  free(text);
  if (!good) napi_throw_type_error(env, NULL, "weft addon: a MAC was expected");
  return good;
}

// packetSend(fd, family, to, source, id, sequence, payload, ifindex, mac) -> 0 or errno
static napi_value packet_send(napi_env env, napi_callback_info info) {
  napi_value arguments[9];
  int64_t fd, family, ifindex;
  struct sockaddr_ll place = {.sll_family = AF_PACKET, .sll_halen = 6};
  if (!read_arguments(env, info, 9, arguments) || !read_int(env, arguments[0], &fd) || !read_int(env, arguments[1], &family) ||
      !read_int(env, arguments[7], &ifindex) || !read_mac(env, arguments[8], place.sll_addr))
    return NULL;
  struct echo echo = {.six = family == 6};
  if (!read_echo(env, arguments + 2, &echo)) return NULL;
  static uint8_t packet[PACKET_ROOM];
  size_t header = echo.six ? sizeof(struct ip6_hdr) : sizeof(struct iphdr);
  size_t length = write_icmp(&echo, packet + header, true);
  write_ip(&echo, packet, length);
  place.sll_protocol = htons(echo.six ? ETHERTYPE_IPV6 : ETHERTYPE_IP);
  place.sll_ifindex = (int)ifindex;
  return send_result(env, sendto((int)fd, packet, header + length, 0, (struct sockaddr *)&place, sizeof place));
}

struct arrival {
  uint32_t ifindex;
  uint64_t at_ns;
};

static struct arrival read_control(struct msghdr *message) {
  struct arrival arrival = {0, 0};
  for (struct cmsghdr *header = CMSG_FIRSTHDR(message); header != NULL; header = CMSG_NXTHDR(message, header)) {
    if (header->cmsg_level == SOL_SOCKET && header->cmsg_type == SCM_TIMESTAMPNS) {
      struct timespec at;
      memcpy(&at, CMSG_DATA(header), sizeof at);
      arrival.at_ns = (uint64_t)at.tv_sec * 1000000000u + (uint64_t)at.tv_nsec;
    } else if (header->cmsg_level == IPPROTO_IP && header->cmsg_type == IP_PKTINFO) {
      struct in_pktinfo there;
      memcpy(&there, CMSG_DATA(header), sizeof there);
      arrival.ifindex = (uint32_t)there.ipi_ifindex;
    } else if (header->cmsg_level == IPPROTO_IPV6 && header->cmsg_type == IPV6_PKTINFO) {
      struct in6_pktinfo there;
      memcpy(&there, CMSG_DATA(header), sizeof there);
      arrival.ifindex = (uint32_t)there.ipi6_ifindex;
    }
  }
  return arrival;
}

// Appends one datagram as a record; returns the room that it took, 0 for what is no echo.
static size_t append(uint8_t *out, const uint8_t *data, size_t length, const void *source, size_t source_length, bool six, struct arrival arrival) {
  size_t skip = six ? 0 : (size_t)(data[0] & 15) * 4;
  if (length < skip + ICMP_BYTES + STAMP_BYTES) return 0;
  const uint8_t *icmp = data + skip, *stamp = icmp + ICMP_BYTES, *payload = stamp + STAMP_BYTES;
  size_t kept = length - skip - ICMP_BYTES - STAMP_BYTES;
  if (kept > KEPT_PAYLOAD) kept = KEPT_PAYLOAD;
  uint64_t sent_ns = 0;
  for (int i = 0; i < STAMP_BYTES; i++) sent_ns = sent_ns << 8 | stamp[i];
  uint16_t id = (uint16_t)(icmp[4] << 8 | icmp[5]), sequence = (uint16_t)(icmp[6] << 8 | icmp[7]);
  uint32_t is_reply = icmp[0] == (six ? ICMP6_ECHO_REPLY : ICMP_ECHOREPLY);
  uint32_t total = (uint32_t)(RECORD_HEADER + kept);
  memset(out, 0, RECORD_HEADER);
  memcpy(out, &total, 4);
  memcpy(out + 4, &arrival.ifindex, 4);
  memcpy(out + 8, &arrival.at_ns, 8);
  memcpy(out + 16, &sent_ns, 8);
  memcpy(out + 24, source, source_length);
  memcpy(out + 40, &id, 2);
  memcpy(out + 42, &sequence, 2);
  memcpy(out + 44, &is_reply, 4);
  memcpy(out + RECORD_HEADER, payload, kept);
  return (total + 7u) & ~(size_t)7;
}

// probeReceive(fd, family, most) -> Buffer with a record for each echo that is there, at most `most` datagrams
static napi_value probe_receive(napi_env env, napi_callback_info info) {
  napi_value arguments[3], result;
  int64_t fd, family, most;
  if (!read_arguments(env, info, 3, arguments) || !read_int(env, arguments[0], &fd) || !read_int(env, arguments[1], &family) ||
      !read_int(env, arguments[2], &most))
    return NULL;
  bool six = family == 6;
  static uint8_t packet[PACKET_ROOM];
  if (most < 1) most = 1;
  if (most > 4096) most = 4096;
  uint8_t *out = malloc((size_t)most * (RECORD_HEADER + KEPT_PAYLOAD + 8));
  if (out == NULL) return throw_failure(env, (struct failure){ENOMEM, "malloc"});
  size_t length = 0;
  int number = 0;
  for (int64_t i = 0; i < most; i++) {
    struct sockaddr_in6 from = {0};
    union {
      char bytes[512];
      struct cmsghdr align;
    } control;
    struct iovec place = {packet, sizeof packet};
    struct msghdr message = {.msg_name = &from, .msg_namelen = sizeof from, .msg_iov = &place, .msg_iovlen = 1};
    message.msg_control = &control;
    message.msg_controllen = sizeof control;
    ssize_t got = recvmsg((int)fd, &message, MSG_DONTWAIT);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) {
      if (errno != EAGAIN) number = errno;
      break;
    }
    const void *source = six ? (void *)&from.sin6_addr : (void *)&((struct sockaddr_in *)&from)->sin_addr;
    if (got > 0) length += append(out + length, packet, (size_t)got, source, six ? 16 : 4, six, read_control(&message));
  }
  if (number == 0)
    napi_create_buffer_copy(env, length, out, NULL, &result);
  else
    result = throw_failure(env, (struct failure){number, "recvmsg"});
  free(out);
  return result;
}

void init_probe(napi_env env, napi_value exports) {
  static const struct function functions[] = {
      {"probeOpen", probe_open},
      {"probeSend", probe_send},
      {"packetSend", packet_send},
      {"probeReceive", probe_receive},
  };
  add_functions(env, exports, functions, sizeof functions / sizeof functions[0]);
}
