// One exchange with the kernel over a netlink socket, as the files that make them share it.
#ifndef WEFT_EXCHANGE_H
#define WEFT_EXCHANGE_H

#include "weft.h"

struct exchange {
  int fd;
  uint32_t last_sequence;     // its acknowledgement or NLMSG_DONE ends the exchange
  uint32_t terminal_sequence; // an error for it ends the exchange too (0: none)
  int timeout_ms;
  const uint8_t *request;
  size_t request_length;
  uint8_t *reply; // every datagram received, one after the other
  size_t reply_length;
  size_t reply_room;
  bool reply_is_lent; // the caller's, until more comes than it holds; else malloc'd
  struct failure failure;
};

// Sends the request. False with `failure` filled.
bool send_request(struct exchange *exchange);

// One datagram from the kernel behind what is there already. False ends the exchange; *fresh is the datagram's length, 0 when there is
// none yet. *deadline begins as 0.
bool receive_one(struct exchange *exchange, size_t *fresh, int64_t *deadline);

#endif
