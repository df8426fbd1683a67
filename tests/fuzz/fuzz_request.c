/* SPDX-License-Identifier: MIT */
/*
 * Requests on the control socket: what is accepted is within its bounds and has only what its
 * verb knows; whatever is refused has a sentence, and leaves nothing to free.
 */
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "segue/request.h"

#define UNTOUCHED 0x5a

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_refusal(const struct request *request, const char *reason)
{
	const unsigned char *bytes = (const unsigned char *)request;

	if (reason[0] == '\0' || memchr(reason, '\0', REQUEST_REASON_MAX) == NULL)
		abort();
	for (size_t i = 0; i < sizeof(*request); i++)
		if (bytes[i] != UNTOUCHED)
			abort();
}

static void check_request(const struct request *request)
{
	if (request->verb <= REQUEST_NONE || request->verb > REQUEST_KILL)
		abort();
	if (request->argv != NULL && (request->verb != REQUEST_UPGRADE ||
	                              request->argv[0] == NULL || request->argv[0][0] == '\0'))
		abort();
	if (!request->wait && request->verb != REQUEST_UPGRADE)
		abort();
	if (request->now && request->verb != REQUEST_STOP)
		abort();
	if (request->worker > (request->verb == REQUEST_RESTART ? 65535U : 0U))
		abort();
	if (request->verb == REQUEST_KILL ? request->signal < 1 || request->signal >= NSIG
	                                  : request->signal != 0)
		abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char reason[REQUEST_REASON_MAX];
	struct request request;

	memset(&request, UNTOUCHED, sizeof(request));
	memset(reason, UNTOUCHED, sizeof(reason));
	reason[0] = '\0';
	if (request_read(&request, (const char *)data, size, reason) < 0) {
		check_refusal(&request, reason);
		return 0;
	}
	check_request(&request);
	request_done(&request);
	return 0;
}
