// Asking for the generation costs a system call and its answer. To be told of every rule instead would cost whoever loads them.
#include "generation.h"

#include <arpa/inet.h>
#include <linux/netfilter/nf_tables.h>
#include <linux/netfilter/nfnetlink.h>
#include <linux/netlink.h>
#include <string.h>
#include <sys/socket.h>

int generation_open(const char *netns_path, struct failure *failure) { return netlink_open(NETLINK_NETFILTER, netns_path, 0, failure); }

// The id out of one datagram, 0 where it holds none.
static uint32_t generation_in(const uint8_t *data, size_t length) {
  const struct nlmsghdr *header = (const struct nlmsghdr *)data;
  size_t at = NLMSG_LENGTH(sizeof(struct nfgenmsg));
  if (length < at || header->nlmsg_len > length || header->nlmsg_type != ((NFNL_SUBSYS_NFTABLES << 8) | NFT_MSG_NEWGEN)) return 0;
  while (at + NLA_HDRLEN + sizeof(uint32_t) <= header->nlmsg_len) {
    const struct nlattr *attribute = (const struct nlattr *)(data + at);
    uint32_t id;
    memcpy(&id, data + at + NLA_HDRLEN, sizeof id);
    if ((attribute->nla_type & NLA_TYPE_MASK) == NFTA_GEN_ID) return ntohl(id);
    if (attribute->nla_len < NLA_HDRLEN) break;
    at += NLA_ALIGN(attribute->nla_len);
  }
  return 0;
}

bool generation_changed(int fd, uint32_t *known) {
  struct {
    struct nlmsghdr header;
    struct nfgenmsg family;
  } request = {{sizeof request, (NFNL_SUBSYS_NFTABLES << 8) | NFT_MSG_GETGEN, NLM_F_REQUEST, 1, 0}, {0, NFNETLINK_V0, 0}};
  struct sockaddr_nl kernel = {.nl_family = AF_NETLINK};
  _Alignas(struct nlmsghdr) uint8_t reply[1024];
  // The answer is there when sendto returns.
  if (sendto(fd, &request, sizeof request, 0, (struct sockaddr *)&kernel, sizeof kernel) < 0) return false;
  ssize_t got = recv(fd, reply, sizeof reply, MSG_DONTWAIT);
  uint32_t generation = got > 0 ? generation_in(reply, (size_t)got) : 0;
  if (generation == 0 || generation == *known) return false;
  *known = generation;
  return true;
}
