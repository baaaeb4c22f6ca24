#define POCKETVLM_ISA serial
#include "attention/views_kernel.h"
