/* Bucket arithmetic, shared by the histogram, its rendering and its test. */
#ifndef BASE_METRICS_INTERNAL_H
#define BASE_METRICS_INTERNAL_H

#include <stddef.h>

#include "base/metrics.h"

size_t histogram__bucket_of(uint64_t value);
uint64_t histogram__bucket_max(size_t bucket); /* the largest value that falls into it */

#endif
