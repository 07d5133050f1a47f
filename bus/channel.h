/* What client calls and client streams share. */
#ifndef BUS_CHANNEL_H
#define BUS_CHANNEL_H

#include "bus/bus_internal.h"

struct bus_channel {
    struct bus_loop loop;
    grpc_channel *channel;
};

#endif
