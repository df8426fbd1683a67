/* SPDX-License-Identifier: MIT */
/*
 * One end of a channel: whole messages with descriptors over a SOCK_SEQPACKET socketpair.
 *
 * Sending never blocks and keeps the order: what the kernel does not take at once waits in
 * a queue together with duplicates of its descriptors. Receiving takes all descriptors of a
 * message or closes them all.
 */
#ifndef SG_CORE_CHANNEL_H
#define SG_CORE_CHANNEL_H

#include "core/wire.h"

struct sg_outgoing;

struct sg_channel {
	int fd; /* -1: none, or ended */
	struct sg_outgoing *first, **last;
	size_t queued;
	uint64_t enqueued; /* ever; less those that are queued they have been written */
};

/* A connected pair, close-on-exec and non-blocking, with room for the largest message. */
int sg_channel_pair(int ret_fds[2]);

/* Takes over the descriptor. */
void sg_channel_init_take(struct sg_channel *channel, int fd);

/* Closes everything. A channel of zeroes, or one that is done, is welcome. */
void sg_channel_done(struct sg_channel *channel);

/*
 * Sends, or queues. Descriptors are borrowed. -EPIPE where the other end is gone,
 * -EMSGSIZE, -EMFILE and -ENOMEM where the message could not be queued.
 */
int sg_channel_send(struct sg_channel *channel, const struct sg_message *message, const int *fds,
                    size_t fds_len);

/*
 * Sends now or not at all. -EAGAIN where the channel has no room or earlier messages wait: it
 * becomes writable. -ENOBUFS, -ENOMEM and -ETOOMANYREFS pass as well, but nothing says when.
 */
int sg_channel_try(struct sg_channel *channel, const struct sg_message *message, const int *fds,
                   size_t fds_len);

/* Is this an error that passes without the channel becoming writable? */
bool sg_channel_passes(int error);

/* Sends what waits. 0, or the error of the first that still waits, as sg_channel_try(). */
int sg_channel_flush(struct sg_channel *channel);

/*
 * Receives one message into a buffer of SG_WIRE_MAX bytes, to which it points. ret_fds has
 * room for SG_WIRE_FDS_MAX and is the caller's.
 * 1, 0 where nothing is there yet, -EPIPE at the end, -EPROTO where it makes no sense,
 * -EMFILE where its descriptors did not fit into this process (ret_message then is valid
 * if it could be decoded, and no descriptor is left).
 */
int sg_channel_receive(struct sg_channel *channel, uint8_t *buffer, struct sg_message *ret_message,
                       int *ret_fds, size_t *ret_fds_len);

#endif
