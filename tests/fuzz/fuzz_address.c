/* SPDX-License-Identifier: MIT */
/*
 * Addresses as a user writes them: whatever is accepted has a canonical text that is accepted
 * again, as the same address; whatever is refused has a sentence.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "core/address.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_again(const struct sg_address *address)
{
	struct sg_address again;
	char reason[256];

	if (sg_address_parse(&again, address->text, reason, sizeof(reason)) != 0)
		abort();
	if (strcmp(again.text, address->text) != 0 || again.kind != address->kind ||
	    again.port != address->port)
		abort();
	if (address->port && !sg_address_overlaps(address, &again, false))
		abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct sg_address address;
	char reason[256] = "";
	char name[SG_NAME_MAX + 1];
	char *text = malloc(size + 1);

	if (!text)
		return 0;
	memcpy(text, data, size);
	text[size] = '\0';
	if (sg_address_parse_spec(name, &address, text, reason, sizeof(reason)) == 0) {
		if (!name[0] || strnlen(name, sizeof(name)) == sizeof(name))
			abort();
		check_again(&address);
	} else if (!reason[0]) {
		abort();
	}
	free(text);
	return 0;
}
