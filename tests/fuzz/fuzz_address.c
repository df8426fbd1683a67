/* SPDX-License-Identifier: MIT */
/*
 * Addresses as a user writes them: whatever is accepted has a canonical text that is accepted
 * again, as the same address; whatever is refused has a sentence of one line.
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
	    again.port != address->port || again.family != address->family ||
	    again.any != address->any)
		abort();
	if (memcmp(again.ip, address->ip, sizeof(again.ip)) != 0 ||
	    strcmp(again.path, address->path) != 0)
		abort();
	if (address->port && !sg_address_overlaps(address, false, &again, false))
		abort();
}

static void check_line(const char *line)
{
	if (!line[0])
		abort();
	for (; *line; line++)
		if ((unsigned char)*line < 0x20 || *line == 0x7f)
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
		if (!sg_name_valid(name) && strncmp(name, address.text, SG_NAME_MAX) != 0)
			abort();
		check_again(&address);
	} else {
		check_line(reason);
	}
	if (sg_address_parse(&address, text, reason, sizeof(reason)) == 0)
		check_again(&address);
	else
		check_line(reason);
	free(text);
	return 0;
}
