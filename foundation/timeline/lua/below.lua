#!lua flags=allow-cross-slot-keys
-- The greatest ids below a bound, without what lies above it. Common: limit, bound. Items: key.
-- At most limit ids, then the floor of the answer, by commas: the timeline holds nothing else between that floor and the
-- bound. 0 for a timeline that is cold or being rebuilt.
-- Ids are decimal text: longer is greater, equal lengths compare as bytes. Never tonumber: it would round.
local limit, bound = tonumber(ARGV[2]), ARGV[3]

local function below(a)
  if #a ~= #bound then
    return #a < #bound
  end
  return a < bound
end

-- The place of the first element below the bound; the floor's where every id is above.
local function first(key)
  local low, high = 0, redis.call('LLEN', key) - 1
  while low < high do
    local middle = math.floor((low + high) / 2)
    if below(redis.call('LINDEX', key, middle)) then
      high = middle
    else
      low = middle + 1
    end
  end
  return low
end

local answer = {}
local n = 0
for place = 4, #ARGV do
  local key = ARGV[place]
  local last = redis.pcall('LINDEX', key, -1)
  n = n + 1
  if type(last) == 'table' then
    answer[n] = last
  elseif not last or string.byte(last, 1) == 33 then
    answer[n] = 0
  else
    local start = 0
    if not below(redis.call('LINDEX', key, 0)) then
      start = first(key)
    end
    answer[n] = table.concat(redis.call('LRANGE', key, start, start + limit), ',')
  end
end
return answer
