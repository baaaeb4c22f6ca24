#define POCKETVLM_ISA neon
#include "attention/views_kernel.h"
